"""Mixtures: exact shares in every window, each source's own epochs, and mistakes in one line."""

import numpy as np
import pytest
from toy import flat_tokens

from recipe.data.blocks import Blocks, JoinedBlocks, OrderedBlocks
from recipe.data.mixtures import PERIOD, Turns, shares_of, weights_of
from recipe.data.tokenizer import block_ends
from recipe.system.errors import UserError


@pytest.mark.parametrize("weights", [(2, 1, 0.5), (1, 1), (0.001, 0.999), (3, 0, 7), (1, 1, 1, 1, 1, 1, 1)])
def test_every_window_of_a_thousand_holds_the_shares(weights):
    shares = shares_of(weights)
    exact = np.array(weights) / sum(weights) * PERIOD
    assert sum(shares) == PERIOD and (np.abs(np.array(shares) - exact) < 1).all()
    turns = Turns(shares, first=17)
    sources = turns.sources(range(17, 17 + 5 * PERIOD))
    for start in (0, 1, 333, 999, 1000, 2718, 4000):
        window = np.bincount(sources[start : start + PERIOD], minlength=len(weights))
        assert tuple(window) == shares
    # Short windows are near the shares, too: a batch of 32 of two equal sources holds 16 of each.
    for start in range(0, 4000, 37):
        window = np.bincount(sources[start : start + 50], minlength=len(weights))
        assert (np.abs(window - 50 * exact / PERIOD) <= 2).all()


def test_the_turns_before_a_sequence_are_counted_in_one_go():
    turns = Turns(shares_of((2, 1, 0.5)), first=40, seen=(5, 0, 9))
    sources = turns.sources(range(40, 40 + 3 * PERIOD))
    for number in (40, 41, 700, 1039, 1040, 2500):
        counted = np.bincount(sources[: number - 40], minlength=3) + np.array([5, 0, 9])
        assert (turns.before(number) == counted).all()
    far = 10**15
    assert (turns.before(far + PERIOD) - turns.before(far) == turns.shares).all()


@pytest.fixture
def sources(bpe, documents):
    """The blocks of two toy sources: 90 documents, and 20 others."""
    return tuple(
        Blocks(flat_tokens(bpe, part), 32, block_ends(bpe), bpe.pad_token_id)
        for part in (documents[:90], documents[90:110])
    )


def test_each_source_has_epochs_of_its_own_in_which_every_block_comes_once(sources):
    mixed = OrderedBlocks(JoinedBlocks(sources), order_seed=3, turns=Turns((500, 500)))
    first, second = map(len, sources)
    seen = mixed.block_ids(range(6 * second))
    assert (seen[seen < first] < first).all() and len(set(seen[seen < first])) == 3 * second
    small = seen[seen >= first] - first
    epochs = small.reshape(3, second)  # run out of, it is repeated with another permutation
    assert all(sorted(epoch) == list(range(second)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    assert mixed.epochs(6 * second) == [3 * second / first, 3.0]


def test_what_a_sequence_holds_depends_on_its_number_alone(sources):
    mixed = OrderedBlocks(JoinedBlocks(sources), order_seed=3, turns=Turns((700, 300)))
    whole = mixed.block_ids(range(500))
    for start, stop in ((0, 1), (7, 39), (123, 500), (499, 500)):
        assert (mixed.block_ids(range(start, stop)) == whole[start:stop]).all()
    rows = mixed.blocks.rows(whole[:64])
    for row, block in zip(rows, whole[:64], strict=True):
        source, own = (0, block) if block < len(sources[0]) else (1, block - len(sources[0]))
        assert (row == sources[source].rows(np.array([own]))[0]).all()


def test_one_source_has_the_order_that_it_has_without_a_mixture(sources):
    alone = OrderedBlocks(sources[0], order_seed=3)
    mixed = OrderedBlocks(JoinedBlocks(sources), order_seed=3, turns=Turns((PERIOD, 0)))
    assert (alone.block_ids(range(300)) == mixed.block_ids(range(300))).all()


def test_evaluation_takes_the_sources_one_after_another_each_with_the_limit(sources):
    evaluation = OrderedBlocks(JoinedBlocks(sources), None, limit=10)
    assert evaluation.parts() == [range(10), range(10, 20)] and len(evaluation) == 20
    ids = evaluation.block_ids(range(20))
    assert (np.diff(ids) > 0).all() and (ids[:10] < len(sources[0])).all() and (ids[10:] >= len(sources[0])).all()


def test_a_mixture_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights_of("wiki/=2 books=1 'my text/'=0.5") == {"wiki/": 2, "books": 1, "my text/": 0.5}
    (tmp_path / "a=1 b=2").mkdir()
    for name in (None, "docstrings", "my text/", "https://x.org/a.txt?v=2", "it's=mine b", "a=1 b=2"):
        assert weights_of(name) == {}


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("a=0 b=0", "weights that sum to 0"),
        ("a=1 b", "found 'b' without a weight"),
        ("a=1 b=-2", "the weight -2 of b"),
        ("a=1 b=x", "the weight x of b"),
        ("a=1 b=inf", "the weight inf of b"),
        ("a=1 b=nan", "the weight nan of b"),
        ("a=1 a=2", "found a twice"),
        ("a=1 b=1e-9", "a share of 0.000% for b"),
        ("a=1 =2", "without a weight"),
    ],
)
def test_mistakes_in_a_mixture(mixture, message):
    with pytest.raises(UserError, match=message):
        weights_of(mixture)
