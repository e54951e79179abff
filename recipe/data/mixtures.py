"""Mixtures of sources: which source the n-th sequence of a run comes from, and which of that source's sequences it is,
in O(1) for any n.

The sources take turns in a pattern of PERIOD sequences that repeats: a source with a share of 57.1 % has 571 turns in
it, spread evenly. So every PERIOD consecutive sequences of a run, wherever they begin, hold exactly the shares.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recipe.system.errors import UserError

PERIOD = 1000  # sequences


def weights_of(dataset: str | None) -> dict[str, float]:
    """{dataset: weight} of a mixture, "wiki=2 books=1 'my text/'=0.5"; {} for a name of one dataset.

    Raises UserError for weights that aren't numbers of at least 0 or sum to nothing, a weight that is missing, and a
    dataset that is named twice.
    """
    if not dataset or Path(dataset).expanduser().exists():
        return {}
    try:
        words = shlex.split(dataset)
    except ValueError:  # a name with an apostrophe
        return {}
    if len(words) < 2 or not any("=" in word for word in words):
        return {}
    weights: dict[str, float] = {}
    for word in words:
        name, equals, weight = word.rpartition("=")
        if not equals or not name:
            raise UserError(
                f"found {word!r} without a weight in the mixture {dataset!r}, expected name=weight for each source: "
                f"{word}=1"
            )
        if name in weights:
            raise UserError(f"found {name} twice in the mixture {dataset!r}: add its weights up")
        weights[name] = weight_of(weight, name)
    require_shares(weights)
    return weights


def weight_of(value: object, name: str) -> float:
    """A weight as a number. Raises UserError for anything but a finite number of at least 0."""
    try:
        number = float(value)  # pyright: ignore[reportArgumentType] (a TypeError is handled)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"found the weight {value} of {name}, expected a number of at least 0")
    return number


def require_shares(weights: dict[str, float]) -> None:
    """Raises UserError for weights that sum to nothing, or one whose share is positive and too small for a turn."""
    total = sum(weights.values())
    if total <= 0:
        raise UserError(f"found weights that sum to 0 for {', '.join(weights)}, expected at least one above 0")
    for name, weight in weights.items():
        if 0 < weight / total < 1 / PERIOD:
            raise UserError(
                f"found a share of {weight / total:.3%} for {name}, expected at least {1 / PERIOD:.1%}, one sequence "
                f"of {PERIOD:,}: raise its weight, or leave it out"
            )


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """The turns of each source in PERIOD sequences: its share, rounded up or down so that they sum to PERIOD."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * PERIOD
    turns = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(turns - exact, kind="stable")  # the largest remainders first
    turns[largest[: PERIOD - int(turns.sum())]] += 1
    return tuple(turns.tolist())


@dataclass(frozen=True)
class Turns:
    """The turns of sources from sequence number `first` of a run on. `shares` has each source's turns in PERIOD
    sequences, `seen` the number of its sequences that came before."""

    shares: tuple[int, ...]
    first: int = 0
    seen: tuple[int, ...] = ()

    @cached_property
    def _pattern(self) -> np.ndarray:
        """[PERIOD] int64: the source of each sequence. Those of one source lie at equal distances."""
        shares = np.array(self.shares)
        source = np.repeat(np.arange(len(shares)), shares)
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in self.shares if count])
        return source[np.argsort(places, kind="stable")]

    @cached_property
    def _earlier(self) -> np.ndarray:
        """[PERIOD + 1, sources] int64: the turns of each source before each place of the pattern."""
        taken = self._pattern[:, None] == np.arange(len(self.shares))
        return np.concatenate([np.zeros((1, len(self.shares)), np.int64), np.cumsum(taken, axis=0)])

    def before(self, number: int) -> np.ndarray:
        """[sources] int64: how many sequences of each source come before sequence `number` of the run."""
        periods, place = divmod(number - self.first, PERIOD)
        start = np.array(self.seen or (0,) * len(self.shares), dtype=np.int64)
        return start + periods * np.array(self.shares, dtype=np.int64) + self._earlier[place]

    def sources(self, sequences: range) -> np.ndarray:
        """[len(sequences)] int64: the source of each of these sequences."""
        return self._pattern[(np.arange(sequences.start, sequences.stop) - self.first) % PERIOD]
