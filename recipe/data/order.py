"""Which block of the corpus is the n-th sequence of a run: a keyed permutation an epoch, in O(1) for any n.

A run is one long line of sequences n = 0, 1, 2 ...; optimizer step k sees n = k*G to (k+1)*G - 1, where G is the
global batch in sequences (recipe.train.stages: where G or the length changes). Workers, ranks, micro-batches and
interruptions only decide who fetches which part of it.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

FEISTEL_ROUNDS = 6  # four are enough for a pseudo-random permutation (Luby and Rackoff, 1988); six leave a margin
WINDOW = 4096  # sequences whose blocks are found at once: a batch's thirty cost NumPy a third of that


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every input bit moves every output bit (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: np.ndarray, size: int, key: np.ndarray | int) -> np.ndarray:
    """Maps each `index` in [0, size) to its place under the permutation of [0, size) that `key` chooses.

    A Feistel network over the next even power of two, walked until it lands inside (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002): no table, so any place of a corpus of any size costs the same. `key` is one
    integer or one an index. Returns int64 of the shape of `index`.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = np.array(index, dtype=np.uint64, ndmin=1)
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), value.shape)
    rounds = np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    round_keys = mix(keys + rounds[:, None])  # once: a walk has some five laps
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & mask
        for row_keys in round_keys[:, outside]:
            left, right = right, left ^ (mix(row_keys ^ right) & mask)
        value[outside] = (left << half) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64).reshape(np.shape(index))


def blocks_of(sequences: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """The block ids of the sequences `n` of a run over `blocks` blocks: epoch n // blocks, place n % blocks in it."""
    epoch, place = np.divmod(np.asarray(sequences, dtype=np.int64), blocks)
    key = mix(np.uint64(seed) + mix(epoch.astype(np.uint64)))
    return permute(place, blocks, key)


def blocks_in(sequences: range, blocks: int, seed: int) -> np.ndarray:
    """`blocks_of` for a range of sequences, whose neighbours it remembers: what a loader asks for batch by batch."""
    first = sequences.start // WINDOW
    windows = [_window(number, blocks, seed) for number in range(first, (sequences.stop - 1) // WINDOW + 1)]
    return np.concatenate(windows)[sequences.start - first * WINDOW : sequences.stop - first * WINDOW]


@lru_cache(maxsize=4)
def _window(number: int, blocks: int, seed: int) -> np.ndarray:
    return blocks_of(np.arange(number * WINDOW, (number + 1) * WINDOW), blocks, seed)


class MicroBatches(Sampler[range]):
    """The micro-batches of one rank over the steps `first_step` to `steps` - 1, each the range of its sequences n; the
    first step begins with `first_sequence`. By default, a whole run.

    Step k is cut as [accumulation step][rank][sequence]: whatever the cut, the step holds the same sequences.
    Iteration starts at the step that `start` returns at that moment, so a resumed run skips nothing by hand; the
    length is that of all its steps.
    """

    def __init__(
        self,
        steps: int,
        micro_batch: int,
        accumulation: int,
        rank: int,
        ranks: int,
        start: Callable[[], int],
        first_step: int = 0,
        first_sequence: int = 0,
    ):
        self.steps, self.micro_batch, self.accumulation = steps, micro_batch, accumulation
        self.rank, self.ranks, self.start = rank, ranks, start
        self.first_step, self.first_sequence = first_step, first_sequence

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulation

    def __iter__(self) -> Iterator[range]:
        passed = max(0, self.start() - self.first_step) * self.accumulation
        for micro_step in range(passed, len(self)):
            first = self.first_sequence + (micro_step * self.ranks + self.rank) * self.micro_batch
            yield range(first, first + self.micro_batch)
