"""Training order: the block of the n-th sequence of a run, by one keyed permutation per epoch, in O(1) for any n.

A run is a numbered series of sequences n = 0, 1, 2 ...; optimizer step k sees n = k*G to (k+1)*G - 1, where G is the
global batch size in sequences (recipe.train.stages: where G or the length changes). Workers, ranks, micro-batches and
interruptions only affect which process loads which part.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

FEISTEL_ROUNDS = 6  # four are enough for a pseudo-random permutation (Luby and Rackoff, 1988); six leave a margin
WINDOW = 4096  # sequences permuted at once: permuting a batch of thirty takes NumPy a third of that time

Numbers = TypeVar("Numbers", np.ndarray, np.uint64)


def mix(x: Numbers) -> Numbers:
    """A bijection of uint64 in which every input bit moves every output bit (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: np.ndarray, size: int, key: np.ndarray | int) -> np.ndarray:
    """Maps each `index` in [0, size) to its image under the permutation of [0, size) selected by `key`.

    A Feistel network over the next even power of two, applied until the result is inside of the range (cycle walking:
    Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). There is no table: the cost per index doesn't
    depend on `size`. `key` is one integer, or one per index. Returns int64 of the shape of `index`.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = np.array(index, dtype=np.uint64, ndmin=1)
    keys = np.broadcast_to(np.asarray(key, dtype=np.uint64), value.shape)
    rounds = np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    round_keys = mix(keys + rounds[:, None])  # computed once: a walk takes some five rounds of the loop
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & mask
        for row_keys in round_keys[:, outside]:
            left, right = right, left ^ (mix(row_keys ^ right) & mask)
        value[outside] = (left << half) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64).reshape(np.shape(index))


def blocks_of(sequences: np.ndarray, blocks: int, seed: int) -> np.ndarray:
    """The block numbers of these sequences of a run over `blocks` blocks: sequence n is number n % blocks of epoch
    n // blocks."""
    epoch, place = np.divmod(np.asarray(sequences, dtype=np.int64), blocks)
    key = mix(np.uint64(seed) + mix(epoch.astype(np.uint64)))
    return permute(place, blocks, key)


def blocks_in(sequences: range, blocks: int, seed: int) -> np.ndarray:
    """`blocks_of` for a range of sequences; caches whole windows, since loaders ask for one batch after another."""
    first = sequences.start // WINDOW
    windows = [_window(number, blocks, seed) for number in range(first, (sequences.stop - 1) // WINDOW + 1)]
    return np.concatenate(windows)[sequences.start - first * WINDOW : sequences.stop - first * WINDOW]


@lru_cache(maxsize=64)  # windows of several sources
def _window(number: int, blocks: int, seed: int) -> np.ndarray:
    return blocks_of(np.arange(number * WINDOW, (number + 1) * WINDOW), blocks, seed)


class MicroBatches(Sampler[range]):
    """The micro-batches of one rank in steps `first_step` to `steps` - 1, each a range of sequence numbers; step
    `first_step` begins with sequence `first_sequence`. The defaults cover a complete run.

    A step is split as [accumulation step][rank][sequence], so that it holds the same sequences however it is split.
    Iteration begins at the step that `start()` returns then, so that a resumed run has nothing to skip; the length
    counts all steps.
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
        completed = max(0, self.start() - self.first_step) * self.accumulation
        for micro_step in range(completed, len(self)):
            first = self.first_sequence + (micro_step * self.ranks + self.rank) * self.micro_batch
            yield range(first, first + self.micro_batch)
