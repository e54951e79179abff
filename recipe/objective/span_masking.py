"""Span masking as in SpanBERT: spans of geometric length are masked together."""

from dataclasses import dataclass

import numpy as np

NEVER = np.iinfo(np.uint32).max  # the key of positions that must not be masked


@dataclass(frozen=True)
class Spans:
    """Spans of 1 to `longest` units, where length l has weight p * (1 - p)^(l - 1) (Joshi et al., "SpanBERT", 2020:
    p = .2, at most 10 words, 3.8 on average). A unit is a token, or a word with whole-word masking."""

    p: float = 0.2
    longest: int = 10

    def lengths(self, draws: np.ndarray) -> np.ndarray:
        """Span lengths (int64) from uniform uint32 `draws`, in the same shape."""
        q = 1.0 - self.p
        share = draws * 2.0**-32 * (1.0 - q**self.longest)
        return 1 + np.floor(np.log1p(-share) / np.log(q)).astype(np.int64)

    def spread(self, keys: np.ndarray, draws: np.ndarray, stretch: np.ndarray) -> np.ndarray:
        """Assigns to each unit the smallest key among the spans that cover it.

        A span begins at every unit, with that unit's key and a length from `draws`; it doesn't leave its `stretch`, the
        number of its run of ordinary units. All arguments are [batch, units], `keys` and `draws` uint32. Masking units
        in the order of the result, the left one first among equal keys, masks whole spans in the order of their keys;
        the last span is cut at the quota, so that every row has the same number of masked units.
        """
        lengths, spread = self.lengths(draws), keys.copy()
        for back in range(1, self.longest):
            reaches = (lengths[:, :-back] > back) & (stretch[:, :-back] == stretch[:, back:])
            np.minimum(spread[:, back:], np.where(reaches, keys[:, :-back], NEVER), out=spread[:, back:])
        return np.where(keys == NEVER, NEVER, spread)


def choose_smallest(keys: np.ndarray, quota: np.ndarray) -> np.ndarray:
    """Marks the `quota` [batch, 1] units with the smallest keys in each row. Returns [batch, units] bool."""
    order = np.argsort(keys, axis=1, kind="stable")
    chosen = np.zeros(keys.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(keys.shape[1]) < quota, axis=1)
    return chosen & (keys != NEVER)


def run_starts(positions: np.ndarray) -> np.ndarray:
    """For ascending positions [batch, K]: the index k at which the unbroken run of each position begins, [batch, K]."""
    begins = np.ones(positions.shape, dtype=bool)
    begins[:, 1:] = np.diff(positions, axis=1) != 1
    return np.maximum.accumulate(np.where(begins, np.arange(positions.shape[1]), 0), axis=1)
