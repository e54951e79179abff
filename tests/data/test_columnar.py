"""Pre-tokenised datasets give the same tokens as their text, or are refused with the reason."""

import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import recipe.data.preparation
from recipe.data.columnar import TokenisedRows, saved_dataset
from recipe.data.corpus import open_corpus
from recipe.data.preparation import prepare_tokens
from recipe.data.tokenizer import train_tokenizer
from recipe.system.errors import UserError


def padded(tokenizer, documents, length=160):
    """Rows as the usual example scripts write them: begin token, text, end token, padding."""
    return tokenizer(documents, padding="max_length", truncation=True, max_length=length)["input_ids"]


def write(folder, kind, rows, validation=None):
    """Saves rows in one of the usual ways; returns the path to use as the dataset."""
    made = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    if kind == "save_to_disk":
        made.save_to_disk(folder / "saved", num_shards=3)
        return folder / "saved"
    if kind == "splits":
        splits = {"train": made, "validation": datasets.Dataset.from_dict({"input_ids": validation}), "test": made}
        datasets.DatasetDict(splits).save_to_disk(folder / "saved")
        return folder / "saved"
    types = {
        "parquet": pyarrow.list_(pyarrow.int64()),
        "large": pyarrow.large_list(pyarrow.uint16()),
        "fixed": pyarrow.list_(pyarrow.int32(), 160),
    }
    table = pyarrow.table(
        {"input_ids": pyarrow.array([*rows, None], type=types[kind]), "text": ["x"] * (len(rows) + 1)}
    )
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=50)
    return folder / "rows.parquet"


def tokens(dataset, tokenizer, folder, **options):
    prepared = prepare_tokens(open_corpus(str(dataset), **options), tokenizer, folder)
    return [prepared.tokens(split).tolist() for split in ("train", "validation")]


@pytest.mark.parametrize("kind", ["save_to_disk", "parquet", "large", "fixed"])
def test_rows_give_the_same_tokens_as_their_text(bpe, wordpiece, documents, text_file, tmp_path, kind, capsys):
    for tokenizer in (bpe, wordpiece):
        rows = padded(tokenizer, documents)
        assert max(map(len, rows)) == 160 and all(tokenizer.pad_token_id in row for row in rows)  # nothing was cut
        here = tmp_path / tokenizer.pad_token.strip("<>[]")
        here.mkdir()
        assert tokens(write(here, kind, rows), tokenizer, here / "data") == tokens(text_file, tokenizer, here / "data")
    said = capsys.readouterr().out
    assert f"used 32,000 ids in {len(documents)} rows" in said and "200 begin, 200 end and" in said


def test_a_saved_validation_split_is_used_and_a_test_split_is_not(bpe, documents, tmp_path):
    rows = padded(bpe, documents)
    train, validation = tokens(write(tmp_path, "splits", rows[:50], rows[50:60]), bpe, tmp_path / "data")
    assert (train.count(2), validation.count(2)) == (50, 10)


def test_a_saved_dataset_of_text_is_text(bpe, documents, text_file, tmp_path):
    datasets.Dataset.from_dict({"text": documents}).save_to_disk(tmp_path / "saved")
    assert tokens(tmp_path / "saved", bpe, tmp_path / "data") == tokens(text_file, bpe, tmp_path / "data")


def documents_in(tokenizer, rows, join=False):
    taken = TokenisedRows("toy", tokenizer, join)
    return [document.tolist() for document in taken.documents(np.array(row, dtype=np.int64) for row in rows)], taken


def test_end_tokens_inside_a_row_end_documents(bpe):
    rows = [[0, 5, 6, 2, 2, 0, 7, 2], [8, 9], [0, 2, 1, 1], [], [2, 10]]
    found, taken = documents_in(bpe, rows)
    assert found == [[5, 6], [7], [8, 9], [10]]
    assert {k: taken.stripped[k] for k in ("begin", "end", "pad", "rows")} == {
        "begin": 3,
        "end": 5,
        "pad": 2,
        "rows": 4,
    }


def test_joined_rows_are_one_stream(bpe):
    stream = [5, 6, 7, 2, 8, 9, 10, 11, 12, 2, 13, 14]
    for width in (1, 3, 4, 5, 12):
        rows = [stream[i : i + width] for i in range(0, len(stream), width)]
        assert documents_in(bpe, rows, join=True)[0] == [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    assert documents_in(bpe, [stream[:3], stream[3:7], stream[7:]])[0] == [[5, 6, 7], [8, 9, 10], [11, 12], [13, 14]]


def test_a_stream_without_end_tokens_is_split_into_bounded_documents(bpe, monkeypatch):
    monkeypatch.setattr("recipe.data.columnar.MAX_JOINED_TOKENS", 10)
    found, _ = documents_in(bpe, [[5] * 4] * 10, join=True)
    assert [len(document) for document in found] == [12, 12, 12, 4]


def test_a_killed_preparation_of_rows_continues_to_the_same_tokens(bpe, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.preparation, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(recipe.data.preparation, "SECONDS_BETWEEN_PROGRESS", -1)
    dataset = write(tmp_path, "save_to_disk", padded(bpe, documents))
    whole = tokens(dataset, bpe, tmp_path / "whole", join_rows=True)
    encode, calls = recipe.data.preparation._Preparation._encode, []

    def killed(self, texts):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(recipe.data.preparation._Preparation, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        tokens(dataset, bpe, tmp_path / "data", join_rows=True)
    assert tokens(dataset, bpe, tmp_path / "data", join_rows=True) == whole
    (described,) = (tmp_path / "data").glob("*/prepared.json")
    assert json.loads(described.read_text())["rows"]["rows"] == len(documents)


def test_rows_of_another_tokenizer_are_refused(bpe, wordpiece, documents, tmp_path):
    larger = train_tokenizer(lambda: documents, kind="bpe", vocab_size=340, min_frequency=1)
    robertas = [[0, 50, 60, 2, 1, 1][: 4 + i % 3] for i in range(150)]
    for rows, used, message in (
        (padded(larger, documents), wordpiece, r"row 0: found the id \d+, the tokenizer has 100 tokens: pass the"),
        (padded(wordpiece, documents), bpe, r"every row begins with the id 2 and ends with 0, the tokenizer's begin"),
        (robertas, wordpiece, r"every row begins with the id 0 and ends with 2, the tokenizer's begin is \[2\]"),
    ):
        with pytest.raises(UserError, match=message):
            tokens(write(tmp_path, "parquet", rows), used, tmp_path / "data")
    assert documents_in(bpe, [[len(bpe) - 1]])[0] == [[len(bpe) - 1]]
    with pytest.raises(UserError, match="row 1: found the id 320, the tokenizer has 320 tokens"):
        documents_in(bpe, [[5], [len(bpe)]])
    assert len(documents_in(bpe, [[7, 5, 6, 2]] * 150)[0]) == 150  # the tokenizer's end token suffices
    bare = larger(documents, add_special_tokens=False)["input_ids"]
    tokens(write(tmp_path, "parquet", bare), larger, tmp_path / "data")  # no specials: nothing to compare


def test_masked_rows_are_refused_but_not_text_that_mentions_the_mask(bpe):
    row = [5] * 200
    row[7] = bpe.mask_token_id
    assert len(documents_in(bpe, [row])[0][0]) == 200
    for place in range(0, 200, 8):
        row[place] = bpe.mask_token_id
    with pytest.raises(UserError, match="are the mask token: expected rows without masking"):
        documents_in(bpe, [row])


def saved(tmp_path, **changes):
    datasets.Dataset.from_dict({"input_ids": [[5, 6]]}).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | changes))
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_data_files": [{"filename": "../../secret.arrow"}]}, "names the file '../../secret.arrow', expected one in"),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "names the file '/etc/passwd'"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"cannot read .*gone\.arrow"),
        ({"_data_files": 5}, "is an incomplete dataset of save_to_disk"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "flatten_indices"),
    ],
)
def test_damaged_saved_datasets_are_refused(bpe, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        tokens(saved(tmp_path, **changes), bpe, tmp_path / "data")
    assert "\n" not in str(error.value)


def test_a_split_outside_of_the_folder_is_refused(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["../.."]}')
    with pytest.raises(UserError, match="expected one in that folder"):
        saved_dataset(tmp_path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pyarrow.array(["text"]), r"holds string, expected lists of integers"),
        (pyarrow.array([[0.5]]), r"holds list<.*double>, expected lists of integers"),
        (pyarrow.array([[5, None]]), "found a null among the input_ids"),
        (pyarrow.array([[-1, 5]]), "row 0: found the id -1"),
    ],
)
def test_unusable_columns_of_ids_are_refused(bpe, tmp_path, column, message):
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        tokens(tmp_path / "a.parquet", bpe, tmp_path / "data")


def test_a_cut_arrow_file_and_a_folder_of_text_and_ids_are_refused(bpe, documents, tmp_path):
    dataset = write(tmp_path, "save_to_disk", padded(bpe, documents))
    file = sorted(dataset.glob("*.arrow"))[1]
    for cut in (8, 1000):  # after the last batch, and inside it
        file.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(UserError, match=r"\.arrow is a damaged or incomplete arrow file"):
            tokens(dataset, bpe, tmp_path / "data")
    both = tmp_path / "both"
    both.mkdir()
    write(both, "parquet", padded(bpe, documents))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), both / "text.parquet")
    with pytest.raises(UserError, match=r"text\.parquet has no column 'input_ids'"):
        tokens(both, bpe, tmp_path / "data")


def test_token_ids_are_not_text(text_file, bpe, documents, tmp_path):
    corpus = open_corpus(str(write(tmp_path, "parquet", padded(bpe, documents))))
    with pytest.raises(UserError, match="expected text to train a tokenizer on"):
        train_tokenizer(corpus.train.texts)
    with pytest.raises(UserError, match=r"found --join_rows, but corpus\.txt is text"):
        open_corpus(str(text_file), join_rows=True)
