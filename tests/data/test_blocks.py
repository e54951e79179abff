"""Blocks: every token exactly once, static batch shapes, and no influence of loader workers."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from toy import sequences_of

from recipe.data.blocks import Blocks
from recipe.data.order import MicroBatches
from recipe.objective.masked_sequences import MaskedSequences


@pytest.mark.parametrize("tokens", [30, 31, 59, 60, 61, 1000])
def test_every_token_is_in_exactly_one_block(tokens):
    flat = np.arange(10, 10 + tokens, dtype=np.uint16)
    blocks = Blocks(flat, 32, ends=(0, 2), pad_id=1)
    rows = blocks.rows(np.arange(len(blocks)))
    assert rows.shape == (-(-tokens // 30), 32)
    assert (rows[:, 0] == 0).all()
    body = rows[:, 1:]
    assert body[body >= 10].tolist() == flat.tolist()
    for row in rows:  # the end token follows the text, and only padding follows it
        text = row[row >= 10]
        assert row[1 + len(text)] == 2 and (row[2 + len(text) :] == 1).all()
    assert (rows[:-1, -1] == 2).all()


def test_an_epoch_contains_every_token_once(bpe, documents):
    sequences = sequences_of(bpe, documents)
    epoch = [sequences.blocks.rows(sequences.block_ids(range(n, n + 1)))[0] for n in range(len(sequences))]
    body = np.concatenate([row[1:-1][row[1:-1] != bpe.pad_token_id] for row in epoch])
    short = len(sequences.blocks.tokens) % 30 > 0
    counts = np.bincount(body, minlength=400)
    counts[bpe.eos_token_id] -= short  # the short block's end token is inside of its body
    assert counts.tolist() == np.bincount(sequences.blocks.tokens, minlength=400).tolist()


def test_all_batches_have_one_shape_and_only_padding_needs_an_attention_mask(bpe, documents):
    sequences = sequences_of(bpe, documents, order_seed=None)
    shapes = set()
    for n in range(len(sequences)):
        batch = sequences[n]
        shapes.add(tuple(tuple(batch[k].shape) for k in ("input_ids", "masked_positions", "labels")))
        padded = bool((batch["input_ids"] == bpe.pad_token_id).any())
        assert ("attention_mask" in batch) == padded == (n == len(sequences) - 1)
    assert shapes == {((1, 32), (1, 5), (1, 5))}
    np.testing.assert_array_equal(batch["attention_mask"], batch["input_ids"] != bpe.pad_token_id)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(bpe, documents, workers):
    sequences = sequences_of(bpe, documents)
    sampler = MicroBatches(6, 4, 2, 0, 1, lambda: 2)
    loader = DataLoader(sequences, batch_sampler=sampler, collate_fn=lambda b: b, num_workers=workers)
    for batch, expected in zip(loader, range(16, 48, 4), strict=True):
        direct = sequences.__getitems__(range(expected, expected + 4))
        assert all(torch.equal(batch[name], direct[name]) for name in direct)


@pytest.mark.parametrize("order_seed", [None, 3])
def test_a_limit_uses_blocks_spread_over_the_corpus(bpe, documents, order_seed):
    whole = sequences_of(bpe, documents)
    limited = MaskedSequences(whole.blocks, whole.masking, order_seed, limit=7)
    ids = sorted(limited.block_ids(range(7)))
    assert len(limited) == 7 and len(set(ids)) == 7
    assert ids[0] == 0 and ids[-1] > len(whole) * 0.8 and np.diff(ids).max() <= len(whole) / 7 + 1
    if order_seed is not None:
        assert sorted(limited.block_ids(range(7, 14))) == ids  # the next epoch
