"""Which stretches of text are hidden together: spans of geometric length, as in SpanBERT."""

from dataclasses import dataclass

import numpy as np

NEVER = np.iinfo(np.uint32).max  # the key of what may not be hidden


@dataclass(frozen=True)
class Spans:
    """Spans of 1 to `longest` units, a length l with a weight of p * (1 - p)^(l - 1) (Joshi et al., "SpanBERT", 2020:
    p = .2, at most 10 words, 3.8 on average). A unit is a token, or a word under whole-word masking."""

    p: float = 0.2
    longest: int = 10

    def lengths(self, draws: np.ndarray) -> np.ndarray:
        """Span lengths out of uniform uint32 draws, of their shape."""
        q = 1.0 - self.p
        share = draws * 2.0**-32 * (1.0 - q**self.longest)
        return 1 + np.floor(np.log1p(-share) / np.log(q)).astype(np.int64)

    def spread(self, keys: np.ndarray, draws: np.ndarray, stretch: np.ndarray) -> np.ndarray:
        """Gives each unit the smallest key among the spans that lie over it.

        A span begins at every unit, with its key [batch, units] uint32 and a length out of `draws`, and ends with its
        `stretch`, the number of the run of ordinary units that it lies in. Hiding units in the order of what is
        returned, the left first among equals, hides whole spans in the order of their own keys; the one that meets the
        quota is cut there, so that every row hides the same number.
        """
        lengths, spread = self.lengths(draws), keys.copy()
        for back in range(1, self.longest):
            reaches = (lengths[:, :-back] > back) & (stretch[:, :-back] == stretch[:, back:])
            np.minimum(spread[:, back:], np.where(reaches, keys[:, :-back], NEVER), out=spread[:, back:])
        return np.where(keys == NEVER, NEVER, spread)


def choose(keys: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """Marks the `quota` [batch, 1] units with the smallest keys of each row. Returns [batch, units] bool."""
    order = np.argsort(keys, axis=1, kind="stable")
    chosen = np.zeros(keys.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(keys.shape[1]) < quota, axis=1)
    return chosen & (keys != NEVER)


def run_of(positions: np.ndarray) -> np.ndarray:
    """For ascending positions [batch, K]: the index in its row of the first one of each unbroken run."""
    begins = np.ones(positions.shape, dtype=bool)
    begins[:, 1:] = np.diff(positions, axis=1) != 1
    return np.maximum.accumulate(np.where(begins, np.arange(positions.shape[1]), 0), axis=1)
