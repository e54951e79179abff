"""recipe.finetune.glue.tasks, recipe.finetune.glue.rows and metrics/glue: the tasks, their data in every layout, and their metrics."""

import math

import evaluate
import numpy as np
import pandas as pd
import pytest
from glue_toys import LAYOUTS, columns, sentences, write_glue, write_tsv
from toy import REPOSITORY

from recipe.finetune.glue.finetuning import METRIC
from recipe.finetune.glue.rows import Rows, TaskRows, read_glue
from recipe.finetune.glue.submission import write_submission
from recipe.finetune.glue.suite import SUITE
from recipe.finetune.glue.tasks import TASKS, task_called
from recipe.system.errors import UserError

REAL = REPOSITORY.parent / "shared" / "data" / "glue"
TRAINABLE = [name for name in TASKS if name != "ax"]


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"), rows=12, dev=6, tests=True)


# ---- rows


@pytest.mark.parametrize("name", TRAINABLE)
def test_official_layout(glue, name):
    task = TASKS[name]
    rows = read_glue(task, str(glue), ("train", task.dev_splits[0], task.test_splits[0])).splits
    train = rows["train"]
    classes = 3 if name in ("mnli", "stsb") else 2
    labels = [n % classes for n in range(12)]
    assert train.labels == ([label * 2.5 for label in labels] if name == "stsb" else labels)
    assert train.texts[0] == sentences(12, 0)  # the quote in row 1 is text
    assert len(train.texts) == len(task.texts) and (len(task.texts) == 1 or train.texts[1] == sentences(12, 10))
    assert rows[task.dev_splits[0]].labels is not None and len(rows[task.dev_splits[0]]) == 6
    assert rows[task.test_splits[0]].labels is None and rows[task.test_splits[0]].texts[0] == sentences(5, 3)


def test_diagnostic_set(glue):
    assert len(read_glue(TASKS["ax"], str(glue), ("test",)).splits["test"]) == 5


def test_missing_half_of_mnli_is_missing(glue):
    splits = read_glue(TASKS["mnli"], str(glue), ("train", *TASKS["mnli"].dev_splits)).splits
    assert set(splits) == {"train", "validation_matched"}


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    file = tmp_path / "MRPC" / "train.tsv"
    write_tsv(file, LAYOUTS["MRPC"][0], [["1", "7", "8", "a b", "c d"]])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    rows = read_glue(TASKS["mrpc"], str(tmp_path), ("train",)).splits["train"]
    assert rows.texts == (["a b"], ["c d"]) and rows.labels == [1]


def test_line_separators_within_a_text_are_text(tmp_path):
    write_tsv(tmp_path / "SST-2" / "train.tsv", "sentence label", [["a\u2028b\x0bc\rd", "1"]])
    assert read_glue(TASKS["sst2"], str(tmp_path), ("train",)).splits["train"].texts[0] == ["a\u2028b\x0bc\rd"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (["only one"], "line 3: found 1 columns, expected 2"),
        (["a", "b", "1"], "line 3: found 3 columns, expected 2"),
        (["a", "2"], "line 3: found the label '2', expected negative, positive or 0 to 1"),
        (["a", ""], "line 3: found the label ''"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path, row, expected):
    file = tmp_path / "SST-2" / "train.tsv"
    write_tsv(file, "sentence label", [["fine", "1"], row])
    with pytest.raises(UserError) as error:
        read_glue(TASKS["sst2"], str(tmp_path), ("train",))
    assert f"{file}, {expected}" in str(error.value)


@pytest.mark.parametrize("score", ["5.1", "-1", "nan", "high"])
def test_scores_outside_the_scale(tmp_path, score):
    header, line = LAYOUTS["STS-B"]
    row = line(0, "a", "b", 0)
    write_tsv(tmp_path / "STS-B" / "train.tsv", header, [[*row[:-1], score]])
    with pytest.raises(UserError, match="line 2: found the score"):
        read_glue(TASKS["stsb"], str(tmp_path), ("train",))


def test_the_broken_rows_of_qqp_are_skipped_and_counted(tmp_path):
    header, line = LAYOUTS["QQP"]
    good = [line(n, "a", "b", 1) for n in range(3)]
    file = tmp_path / "QQP" / "train.tsv"
    write_tsv(file, header, [good[0], ["1", "half a row"], *good[1:]])
    rows = read_glue(TASKS["qqp"], str(tmp_path), ("train",)).splits["train"]
    assert (len(rows), rows.skipped) == (3, 1)
    write_tsv(file, header, [good[0], *[["x"]] * 25])
    with pytest.raises(UserError, match="line 27: found 1 columns"):
        read_glue(TASKS["qqp"], str(tmp_path), ("train",))


def test_other_mistakes(tmp_path, glue):
    with pytest.raises(UserError, match=r"unknown task 'sst'.*cola, sst2"):
        task_called("sst")
    (tmp_path / "CoLA").mkdir()
    with pytest.raises(UserError, match=r"has no folder RTE \(it has CoLA\)"):
        read_glue(TASKS["rte"], str(tmp_path), ("train",))
    with pytest.raises(UserError, match=r"found no folder \./nowhere"):
        read_glue(TASKS["rte"], "./nowhere", ("train",))
    write_tsv(tmp_path / "RTE" / "train.tsv", "index sentence1 label", [["0", "a", "0"]])
    with pytest.raises(UserError, match=r"line 1: found the columns .* expected one called 'sentence2'"):
        read_glue(TASKS["rte"], str(tmp_path), ("train",))
    (tmp_path / "RTE" / "train.tsv").write_bytes(b"index\tsentence1\tsentence2\tlabel\n0\t\xff\xfe\tb\t0\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_glue(TASKS["rte"], str(tmp_path), ("train",))
    write_tsv(tmp_path / "RTE" / "train.tsv", LAYOUTS["RTE"][0], [])
    with pytest.raises(UserError, match="has no rows"):
        read_glue(TASKS["rte"], str(tmp_path), ("train",))


def test_copy_of_the_hub_repository(tmp_path):
    frame = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1], "idx": [0, 1]})
    (tmp_path / "rte").mkdir()
    frame[:1].to_parquet(tmp_path / "rte" / "train-00000-of-00002.parquet")
    frame[1:].to_parquet(tmp_path / "rte" / "train-00001-of-00002.parquet")
    frame.assign(label=-1).to_parquet(tmp_path / "rte" / "test-00000-of-00001.parquet")
    rows = read_glue(TASKS["rte"], str(tmp_path), ("train", "validation", "test")).splits
    assert set(rows) == {"train", "test"}
    assert rows["train"].texts == (["a", "b"], ["c", "d"]) and rows["train"].labels == [0, 1]
    assert rows["test"].labels is None
    frame.assign(label=7).to_parquet(tmp_path / "rte" / "train-00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"row 0: found the label '7'"):
        read_glue(TASKS["rte"], str(tmp_path), ("train",))


def test_without_a_hub_the_message_says_what_to_pass(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="GLUE_DATA"):
        read_glue(TASKS["rte"], "nobody/glue", ("train",))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real GLUE data in ../shared/data/glue")
@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_the_real_files_have_their_official_size(name):
    task = TASKS[name]
    rows = read_glue(task, str(REAL), ("train", "validation")).splits
    assert {split: len(part) for split, part in rows.items()} == {k: task.sizes[k] for k in rows}


# ---- prediction files


@pytest.mark.parametrize(
    ("name", "split", "predictions", "files", "submitted", "named"),
    [
        ("cola", "test", [1, 0], "CoLA.tsv cola", ["1", "0"], ["acceptable", "unacceptable"]),
        ("rte", "test", [1, 0], "RTE.tsv rte", ["not_entailment", "entailment"], ["not_entailment", "entailment"]),
        ("mnli", "test_mismatched", [2], "MNLI-mm.tsv mnli-mm", ["contradiction"], ["contradiction"]),
        ("stsb", "test", [5.2, -0.1, 2.1], "STS-B.tsv stsb", ["5.000", "0.000", "2.100"], ["5.200", "-0.100", "2.100"]),
        (None, "test", [1, 0], "predictions.tsv None", ["good", "bad"], ["good", "bad"]),
    ],
)
@pytest.mark.parametrize("index", [None, ("7", "3", "x")])
def test_prediction_files(tmp_path, name, split, predictions, files, submitted, named, index):
    task = TASKS.get(name)
    count = len(predictions)
    split_rows = Rows((["a"] * count,), None, "toys", index=index and index[:count])
    rows = TaskRows({split: split_rows}, task.labels if task else ("bad", "good"))
    written = write_submission(tmp_path, task, rows, split, np.array(predictions))
    first, second = files.split()
    assert written == [tmp_path / first, tmp_path / f"predict_results_{second}.txt"]
    for file, values in zip(written, (submitted, named), strict=True):
        lines = [f"{number}\t{value}" for number, value in zip(index or "012", values, strict=False)]
        assert file.read_text().splitlines() == ["index\tprediction", *lines]


def test_a_broken_test_row_is_refused_and_predictions_have_the_file_s_numbers(tmp_path):
    """Skipping the row would move every later prediction to another row's number."""
    rows = [[str(n + 100), f"a {n}", f"b {n}"] for n in range(10)]
    file = tmp_path / "QQP" / "test.tsv"
    write_tsv(file, "id question1 question2", rows)
    test = read_glue(TASKS["qqp"], str(tmp_path), ("test",)).splits["test"]
    assert test.index == tuple(str(n + 100) for n in range(10)) and test.first(3).index == ("100", "101", "102")
    for stem, split, header, label in (("test", "test", "id question1 question2", 0),
                                       ("dev", "validation", LAYOUTS["QQP"][0], 1)):  # fmt: skip
        good = [LAYOUTS["QQP"][1](n, "a", "b", 1) for n in range(9)] if label else rows
        write_tsv(tmp_path / "QQP" / f"{stem}.tsv", header, [*good[:2], good[2][:-1], *good[3:]])
        with pytest.raises(UserError, match=r"line 4: found \d columns, expected \d"):
            read_glue(TASKS["qqp"], str(tmp_path), (split,))
    write_tsv(file, "id question1 question2", [*rows, rows[4]])
    with pytest.raises(UserError, match="found the id '104' twice"):
        read_glue(TASKS["qqp"], str(tmp_path), ("test",))


# ---- the table of tasks


def test_columns_belong_to_tasks():
    for column in SUITE.columns.values():
        assert column.split in TASKS[column.task].dev_splits
    average, reference = SUITE.averages
    assert {*average.columns, *reference.columns} <= set(SUITE.columns)
    assert all(SUITE.columns[c].metric == TASKS[SUITE.columns[c].task].headline for c in average.columns)
    assert len(average.columns) == 8 and "WNLI" not in average.columns
    assert len(columns("a,b c")) == 2


# ---- metrics, worked by hand


def metric(task, predictions, references):
    return evaluate.load(str(METRIC), task, keep_in_memory=True).compute(predictions=predictions, references=references)


def test_classification_by_hand():
    predictions, references = [1, 1, 0, 0, 1], [1, 1, 1, 0, 0]  # 2 true positives, 1 miss, 1 false alarm, 1 true no
    assert metric("cola", predictions, references) == {"matthews_correlation": pytest.approx(1 / 6)}
    assert metric("mrpc", predictions, references) == {"accuracy": 0.6, "f1": pytest.approx(4 / 6)}
    assert metric("qqp", predictions, references) == metric("mrpc", predictions, references)
    assert metric("mnli", [0, 1, 2, 2], [0, 1, 2, 0]) == {"accuracy": 0.75}


def test_regression_by_hand():
    scores = metric("stsb", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert scores == {"pearson": pytest.approx(3 / math.sqrt(2 * 42 / 9)), "spearmanr": pytest.approx(1.0)}
    tied = metric("stsb", [1.0, 2.0, 2.0], [1.0, 3.0, 2.0])  # ranks 1, 2.5, 2.5 and 1, 3, 2
    assert tied["spearmanr"] == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.filterwarnings("error")
def test_degenerate_predictions_are_defined():
    assert metric("cola", [1, 1, 1], [1, 0, 1]) == {"matthews_correlation": 0.0}
    assert metric("mrpc", [0, 0, 0], [1, 0, 1]) == {"accuracy": pytest.approx(1 / 3), "f1": 0.0}
    assert metric("mrpc", [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0}
    assert metric("stsb", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearmanr": 0.0}
    assert metric("stsb", [1.0], [1.0]) == {"pearson": 0.0, "spearmanr": 0.0}
    with pytest.raises(KeyError, match="hans"):
        metric("hans", [1], [1])
