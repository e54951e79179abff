"""Span masking: length distribution, a fixed number of masked positions per block, spans of whole words."""

import itertools

import numpy as np
import pytest
from test_masking import VOCAB, blocks, masking
from test_words import positions_of_words
from toy import sequences_of, toy_documents

from recipe.objective.masking import IGNORED
from recipe.objective.span_masking import NEVER, Spans
from recipe.objective.words import word_boundaries


def test_lengths_are_geometric_and_3_8_on_average():
    draws = np.random.default_rng(0).integers(0, 1 << 32, 400_000, dtype=np.uint32)
    lengths = Spans().lengths(draws)
    weights = 0.2 * 0.8 ** np.arange(10)
    assert np.bincount(lengths, minlength=11)[1:] / len(lengths) == pytest.approx(weights / weights.sum(), abs=0.003)
    assert lengths.mean() == pytest.approx(3.8, abs=0.02) and lengths.max() == 10
    assert Spans().lengths(np.array([0, NEVER], dtype=np.uint32)).tolist() == [1, 10]


def test_a_unit_gets_the_smallest_key_of_its_spans_and_no_span_crosses_a_special_token():
    keys = np.array([[50, 10, 40, 30, NEVER, 60, 70, 5]], dtype=np.uint32)
    draws = np.full((1, 8), NEVER // 2, dtype=np.uint32)  # the middle of the distribution
    spans = Spans(p=0.5, longest=3)
    assert spans.lengths(draws).tolist() == [[1] * 8]
    draws[0, [1, 3, 5]] = NEVER  # three units each
    stretch = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert spans.spread(keys, draws, stretch).tolist() == [[50, 10, 10, 10, NEVER, 60, 60, 5]]


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_every_block_has_the_same_number_masked_and_a_mask_does_not_depend_on_its_batch(probability):
    mask, ids = masking(spans=Spans(), mlm_probability=probability), blocks(100)
    together = mask.apply(ids, first=7)
    _, positions, labels = together
    assert positions.shape == (100, round(probability * 64)) and (labels != IGNORED).all()
    assert all(len(set(row)) == len(row) for row in positions.tolist())
    assert not np.isin(labels, (0, 1, 2, 3, 4)).any()
    for row in range(0, 100, 9):
        alone = mask.apply(ids[row : row + 1], first=7 + row)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[row : row + 1], b)


def runs(positions):
    """Unbroken runs of masked positions as (row, index of the first position, length)."""
    found = []
    for row, places in enumerate(positions):
        begins = [k for k in range(len(places)) if k == 0 or places[k] != places[k - 1] + 1]
        found += [(row, a, b - a) for a, b in zip(begins, [*begins[1:], len(places)], strict=True)]
    return found


def test_masked_tokens_form_runs_that_are_replaced_in_one_way():
    ids = blocks(rows=2000, length=128)
    inputs, positions, labels = masking(spans=Spans()).apply(ids, 0)
    found = runs(positions)
    lengths = np.array([length for *_, length in found])
    assert lengths.mean() > 3 and (np.diff(positions) > 0).all()
    scattered = runs(np.sort(masking().apply(ids, 0)[1]))
    assert np.mean([length for *_, length in scattered]) < 1.3
    seen = np.take_along_axis(inputs, positions, 1)
    kinds = np.where(seen == 4, 0, np.where(seen == labels, 2, 1))
    ways = [kinds[row, first] for row, first, _ in found]
    # One random token in 995 is the original token.
    together = [len(set(kinds[row, first : first + length]) - {2}) <= 1 for row, first, length in found]
    assert all(together)
    assert np.bincount(ways, minlength=3) / len(ways) == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    # Ordinary positions are about equally likely, except after a special token, where fewer spans cover them.
    share = np.bincount(positions.ravel(), minlength=128) / 2000
    assert share[[0, 20, 127]].tolist() == [0, 0, 0]
    assert share[40:120] == pytest.approx(share[40:120].mean(), abs=0.04)


def test_the_short_last_block_has_its_share_masked():
    ids = blocks(1)
    ids[0, 21:] = 1
    _, positions, labels = masking(spans=Spans()).apply(ids, 0)
    assert (labels != IGNORED).sum() == round(0.15 * 21) and (positions[labels != IGNORED] < 21).all()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_with_whole_word_masking_spans_consist_of_words(kind, request):
    tokenizer = request.getfixturevalue(kind)
    documents = toy_documents(100, seed=4)
    options = {"length": 64, "words": word_boundaries(tokenizer), "mlm_probability": 0.3}
    adjacent_share = {}
    for spans in (None, Spans()):
        sequences = sequences_of(tokenizer, documents, spans=spans, **options)
        masked_words, adjacent = 0, 0
        for n in range(30):
            batch = sequences[n]
            ids = sequences.blocks.rows(sequences.block_ids(range(n, n + 1)))[0]
            masked = set(batch["masked_positions"][0][batch["labels"][0] != IGNORED].tolist())
            words = positions_of_words(tokenizer, ids)
            whole = [set(word) <= masked for word in words]
            assert all(w or not set(word) & masked for word, w in zip(words, whole, strict=True))
            masked_words += sum(whole)
            adjacent += sum(a and b for a, b in itertools.pairwise(whole))
        adjacent_share[spans is not None] = adjacent / masked_words
    assert adjacent_share[True] > 1.5 * adjacent_share[False]


def test_a_falling_masking_rate_keeps_the_shapes():
    ids = blocks(rows=6)
    rate = lambda n: 0.3 - 0.05 * (n // 2)  # noqa: E731
    for spans in (None, Spans()):
        mask = masking(mlm_probability=0.3, rate_of=rate, spans=spans)
        inputs, positions, labels = mask.apply(ids, first=0)
        assert positions.shape == labels.shape == (6, 19)
        assert (labels != IGNORED).sum(axis=1).tolist() == [19, 19, 16, 16, 13, 13]
        untouched = np.take_along_axis(inputs, positions, 1)[labels == IGNORED]
        np.testing.assert_array_equal(untouched, np.take_along_axis(ids, positions, 1)[labels == IGNORED])
        later = mask.apply(ids[4:], first=4)
        np.testing.assert_array_equal(later[2], labels[4:])
    assert ids.max() < VOCAB
