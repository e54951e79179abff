"""recipe.finetune.examples: tokenised once, padded to the longest of a batch, in an order that no cut of the batch changes."""

import numpy as np
import pytest
import torch
from glue_toys import sentences, toy_tokenizer

from recipe.data.tokenizer import train_tokenizer
from recipe.finetune import examples
from recipe.finetune.examples import IGNORED, Examples, FineTuneBatches, evaluation_batches, steps_of_epoch, tokenise
from recipe.finetune.glue.rows import Rows


@pytest.fixture
def rows():
    return Rows((sentences(50), sentences(50, 1)), [n % 2 for n in range(50)], "toys")


def made(arrays, labels, **changes):
    options = {"pad_id": 1, "regression": False, "token_types": False} | changes
    return Examples(arrays, labels, **options)


def test_a_pair_reads_as_the_model_expects(rows, tmp_path):
    tokenizer = toy_tokenizer()
    arrays = tokenise(rows, tokenizer, 64, tmp_path)
    first = made(arrays, rows.labels).row(0)
    assert first.tolist() == tokenizer(rows.texts[0][0], rows.texts[1][0])["input_ids"]


def test_the_second_text_of_a_pair_has_a_type_of_its_own(rows, wordpiece, tmp_path):
    """BERT tells the two apart by it."""
    data = made(tokenise(rows, wordpiece, 256, tmp_path), rows.labels, pad_id=wordpiece.pad_token_id, token_types=True)
    for row in (0, 7):
        theirs = wordpiece(rows.texts[0][row], rows.texts[1][row])["token_type_ids"]
        assert data.__getitems__([row])["token_type_ids"][0].tolist() == theirs and set(theirs) == {0, 1}


def test_longer_pairs_are_cut_and_special_words_in_a_text_stay_text(tmp_path):
    tokenizer = toy_tokenizer()
    long = Rows((["cat " * 50], ["dog " * 50]), [0], "toys")
    ids = made(tokenise(long, tokenizer, 16, tmp_path), [0]).row(0)
    assert len(ids) == 16 and ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    sly = Rows((["a </s> b"],), [0], "toys")
    ids = made(tokenise(sly, tokenizer, 16, tmp_path), [0]).row(0)
    assert (ids == tokenizer.sep_token_id).sum() == 1


def test_tokenised_once_for_a_tokenizer(rows, tmp_path, monkeypatch):
    first = tokenise(rows, toy_tokenizer(), 32, tmp_path)
    monkeypatch.setattr(examples, "_encode", None)  # calling it again would raise
    again = tokenise(rows, toy_tokenizer(), 32, tmp_path)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = train_tokenizer(lambda: sentences(30, 5), vocab_size=280)
    for change in ((rows, other, 32), (rows, toy_tokenizer(), 31), (rows.first(49), toy_tokenizer(), 32)):
        with pytest.raises(TypeError):
            tokenise(*change, tmp_path)


def test_a_damaged_cache_is_made_again(rows, tmp_path):
    first = tokenise(rows, toy_tokenizer(), 32, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    good = file.read_bytes()
    for damaged in (good[:100], good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]):
        file.write_bytes(damaged)
        again = tokenise(rows, toy_tokenizer(), 32, tmp_path)
        assert all(np.array_equal(again[name], first[name]) for name in first) and file.read_bytes() == good


def test_batches_are_padded_to_their_longest_only(rows, tmp_path):
    data = made(tokenise(rows, toy_tokenizer(), 64, tmp_path), rows.labels)
    short = sorted(range(50), key=lambda row: data.lengths[row])[:4]
    batch = data.__getitems__(short)
    assert batch["input_ids"].shape == (4, data.lengths[short[-1]])
    for place, row in enumerate(short):
        assert batch["input_ids"][place, : data.lengths[row]].tolist() == data.row(row).tolist()
        assert (batch["input_ids"][place, data.lengths[row] :] == 1).all()
        assert batch["attention_mask"][place].sum() == data.lengths[row]
    assert "attention_mask" not in data.__getitems__([0])
    assert batch["labels"].tolist() == [rows.labels[row] for row in short] and batch["labels"].dtype == torch.int64
    padded = made(tokenise(rows, toy_tokenizer(), 64, tmp_path), rows.labels, pad_to=64)
    assert padded.__getitems__(short)["input_ids"].shape == (4, 64)


def test_labels_of_a_regression_and_of_the_filling_row(rows, tmp_path):
    data = made(tokenise(rows, toy_tokenizer(), 64, tmp_path), [0.5] * 50, regression=True, token_types=True)
    batch = data.__getitems__([-1, 3])
    assert batch["labels"].tolist() == [IGNORED, 0.5] and batch["labels"].dtype == torch.float32
    assert batch["token_type_ids"].shape == batch["input_ids"].shape


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own():
    lengths = np.random.default_rng(0).integers(5, 60, size=1003)
    steps = steps_of_epoch(lengths, 16, seed=1, epoch=0)
    assert sorted(np.concatenate(steps).tolist()) == list(range(1003))
    assert sorted(map(len, steps)) == [11] + [16] * 62
    same, epoch, seed = (steps_of_epoch(lengths, 16, s, e) for s, e in ((1, 0), (1, 1), (2, 0)))
    assert all(np.array_equal(a, b) for a, b in zip(steps, same, strict=True))
    assert not np.array_equal(steps[0], epoch[0]) and not np.array_equal(steps[0], seed[0])


def test_like_lengths_share_a_batch():
    lengths = np.random.default_rng(0).integers(5, 60, size=2000)

    def padding(steps):
        return 1 - lengths.sum() / sum(lengths[rows].max() * len(rows) for rows in steps)

    shuffled = np.array_split(np.random.default_rng(1).permutation(2000), 125)
    assert padding(steps_of_epoch(lengths, 16, 1, 0)) < 0.05 < 0.4 < padding(shuffled)
    longest_first = [lengths[rows].max() for rows in steps_of_epoch(lengths, 16, 1, 0)]
    assert sorted(longest_first, reverse=True) != longest_first  # length must not tell the place in the epoch


def test_every_epoch_of_a_run_holds_every_row_once():
    """19 rows in steps of 8: the third step of each epoch has three."""
    options = {"steps": 6, "micro_batch": 8, "accumulation": 1, "rank": 0, "ranks": 1, "seed": 3, "start": lambda: 0}
    batches = list(FineTuneBatches(np.arange(19), **options))
    assert sorted(map(len, batches[:3])) == sorted(map(len, batches[3:])) == [3, 8, 8]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(19))


@pytest.mark.parametrize(("micro", "accumulation", "ranks"), [(8, 1, 1), (2, 4, 1), (4, 1, 2), (1, 2, 4)])
def test_a_step_holds_the_same_rows_however_it_is_cut(micro, accumulation, ranks):
    lengths = np.arange(19)

    def steps(micro, accumulation, ranks, start=0):
        parts = [
            list(
                FineTuneBatches(
                    lengths,
                    steps=7,
                    micro_batch=micro,
                    accumulation=accumulation,
                    rank=rank,
                    ranks=ranks,
                    seed=3,
                    start=lambda: start,
                )
            )
            for rank in range(ranks)
        ]
        assert {len(part) for part in parts} == {(7 - start) * accumulation}  # every rank makes as many passes
        return [
            sorted(
                row
                for part in parts
                for batch in part[step * accumulation : (step + 1) * accumulation]
                for row in batch
                if row >= 0
            )
            for step in range(7 - start)
        ]

    assert steps(micro, accumulation, ranks) == steps(8, 1, 1)
    assert steps(micro, accumulation, ranks, start=4) == steps(8, 1, 1)[4:]


def test_evaluation_sees_every_row_once():
    batches = evaluation_batches(np.array([3, 9, 1, 9, 4]), 2)
    assert batches == [[1, 3], [4, 0], [2]]
