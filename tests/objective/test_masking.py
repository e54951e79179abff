"""Masking: a pure function of seed and sequence number, with static shapes and the configured proportions."""

import numpy as np
import pytest

from recipe.objective.masking import IGNORED, Masking

VOCAB, SPECIALS = 1000, (0, 1, 2, 3, 4)


def masking(**more) -> Masking:
    return Masking(vocab_size=VOCAB, mask_id=4, pad_id=1, special_ids=SPECIALS, **({"seed": 11} | more))


def blocks(rows=8, length=64, seed=0):
    ids = np.random.default_rng(seed).integers(5, VOCAB, (rows, length)).astype(np.uint16)
    ids[:, 0], ids[:, -1], ids[:, 20] = 0, 2, 2
    return ids


def test_a_mask_does_not_depend_on_its_batch():
    ids = blocks()
    together = masking().apply(ids, first=100)
    for row in range(len(ids)):
        alone = masking().apply(ids[row : row + 1], first=100 + row)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[row : row + 1], b)


def test_masks_depend_on_sequence_number_and_seed():
    ids = blocks(1)
    _, first, _ = masking().apply(ids, 0)
    assert first.tolist() != masking().apply(ids, 1)[1].tolist()
    assert first.tolist() != masking(seed=12).apply(ids, 0)[1].tolist()


@pytest.mark.parametrize("probability", [0.15, 0.3, 0.4])
def test_every_block_has_the_same_number_of_distinct_masked_positions(probability):
    _, positions, labels = masking(mlm_probability=probability).apply(blocks(200), 0)
    assert positions.shape == labels.shape == (200, round(probability * 64))
    assert (labels != IGNORED).all()
    assert all(len(set(row)) == len(row) for row in positions.tolist())


def test_inputs_differ_from_the_text_only_at_masked_positions_and_labels_are_the_text():
    ids = blocks()
    inputs, positions, labels = masking().apply(ids, 0)
    np.testing.assert_array_equal(np.take_along_axis(ids, positions, 1), labels)
    restored = inputs.copy()
    np.put_along_axis(restored, positions, labels, 1)
    np.testing.assert_array_equal(restored, ids)


def test_shares_over_many_tokens_are_15_percent_masked_and_80_10_10_replaced():
    ids = blocks(rows=4000, length=128)
    inputs, positions, labels = masking().apply(ids, 0)
    seen = np.take_along_axis(inputs, positions, 1)
    assert labels.size > 70_000
    assert (seen == 4).mean() == pytest.approx(0.8, abs=0.006)
    assert (seen == labels).mean() == pytest.approx(0.1, abs=0.005)
    drawn = seen[(seen != 4) & (seen != labels)]
    assert len(drawn) / labels.size == pytest.approx(0.1, abs=0.005)
    assert not np.isin(drawn, SPECIALS).any()
    # Random tokens are uniform over the vocabulary.
    assert np.bincount(drawn // 250, minlength=4) / len(drawn) == pytest.approx([0.25] * 4, abs=0.02)
    # All ordinary positions are equally likely.
    share = np.bincount(positions.ravel(), minlength=128) / 4000
    assert share[[0, 20, 127]].tolist() == [0, 0, 0]
    assert np.delete(share, [0, 20, 127]) == pytest.approx(19 / 125, abs=0.03)


def test_replacement_shares_follow_the_settings():
    inputs, positions, _ = masking(mask_replace_prob=1.0, random_replace_prob=0.0).apply(blocks(), 0)
    assert (np.take_along_axis(inputs, positions, 1) == 4).all()


def test_special_tokens_are_never_masked_even_where_other_tokens_are_few():
    ids = np.full((4, 64), 2, dtype=np.uint16)
    ids[:, 10:14] = 50
    inputs, positions, labels = masking().apply(ids, 0)
    assert positions.shape == (4, 10)
    assert ((labels != IGNORED).sum(1) == 4).all() and set(labels[labels != IGNORED]) == {50}
    np.testing.assert_array_equal(np.delete(inputs, range(10, 14), axis=1), 2)


def test_the_short_last_block_has_its_share_masked():
    ids = blocks(1)
    ids[0, 21:] = 1
    _, positions, labels = masking().apply(ids, 0)
    counted = labels != IGNORED
    assert counted.sum() == round(0.15 * 21)
    assert (positions[counted] < 21).all()
