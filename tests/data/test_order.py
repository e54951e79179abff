"""Training order: the blocks of a step depend only on seed, number of blocks and step."""

import itertools

import numpy as np
import pytest

from recipe.data.order import WINDOW, MicroBatches, blocks_in, blocks_of, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 65537])
def test_permute_is_a_permutation(size):
    assert sorted(permute(np.arange(size), size, key=5)) == list(range(size))


def test_permuting_indices_one_by_one_gives_the_same_result():
    at_once = permute(np.arange(100), 100, key=9)
    assert [int(permute(np.array([i]), 100, key=9)[0]) for i in range(100)] == at_once.tolist()


def test_permutations_look_random():
    size = 2000
    orders = [permute(np.arange(size), size, key) for key in range(20)]
    for order in orders:
        # |a - b| of random neighbours is size / 3 on average, but not under a shift or a stride.
        assert abs(np.abs(np.diff(order)).mean() - size / 3) < 0.1 * size / 3
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.1
    fixed_points = [(a == b).sum() for a, b in itertools.pairwise(orders)]
    assert np.mean(fixed_points) < 4  # two random permutations agree in one position on average


def test_every_epoch_sees_every_block_once_in_another_order():
    epochs = blocks_of(np.arange(300), 100, seed=1).reshape(3, 100)
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed():
    assert blocks_of(np.arange(50), 50, seed=1).tolist() != blocks_of(np.arange(50), 50, seed=2).tolist()


def test_the_order_of_a_distant_step_takes_constant_time():
    far = blocks_of(np.arange(10**15, 10**15 + 4), 250_000_000, seed=1)
    assert ((far >= 0) & (far < 250_000_000)).all()


@pytest.mark.parametrize(
    "sequences", [range(3), range(WINDOW - 2, WINDOW + 3), range(5 * WINDOW, 6 * WINDOW), range(7, 3 * WINDOW)]
)
def test_a_range_has_the_blocks_of_its_sequences(sequences):
    assert blocks_in(sequences, 3001, seed=1).tolist() == blocks_of(np.array(sequences), 3001, seed=1).tolist()
    assert blocks_in(sequences, 3001, seed=2).tolist() == blocks_of(np.array(sequences), 3001, seed=2).tolist()


def step_sequences(micro_batch, accumulation, ranks, step):
    samplers = [MicroBatches(5, micro_batch, accumulation, rank, ranks, lambda: 0) for rank in range(ranks)]
    cut = [list(sampler)[step * accumulation : (step + 1) * accumulation] for sampler in samplers]
    return sorted(n for rank in cut for micro in rank for n in micro)


@pytest.mark.parametrize("cut", [(32, 1, 1), (8, 4, 1), (4, 8, 1), (16, 1, 2), (4, 4, 2), (1, 8, 4)])
def test_a_step_holds_the_same_sequences_however_it_is_split(cut):
    for step in range(5):
        assert step_sequences(*cut, step) == list(range(32 * step, 32 * step + 32))


def test_a_resumed_run_starts_at_its_step():
    whole = list(MicroBatches(10, 4, 2, 1, 2, lambda: 0))
    resumed = MicroBatches(10, 4, 2, 1, 2, lambda: 6)
    assert list(resumed) == whole[12:]
    assert len(resumed) == 20  # the Trainer needs the length of the complete run
