"""recipe.finetune.glue.own_tasks: tasks of the user's own in YAML files, through a sweep, run_glue.py, tables and
comparisons; and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
from glue_toys import sentences, sweep_here, toy_run, write_glue
from huggingface_hub import ModelCard
from sklearn.metrics import matthews_corrcoef

import run_glue
from recipe.compare.differences import compare
from recipe.finetune.glue.own_tasks import read_own_task
from recipe.finetune.results import read_results
from recipe.finetune.suites import default_suite, suites_with
from recipe.report.score_frames import cells_of, read_frame
from recipe.report.scores import rebuild
from recipe.system.errors import UserError

BOOLQ = """\
name: BoolQ
train: data/train.jsonl
validation: data/val.jsonl
texts: [question, passage]
label: answer
metric: accuracy
learning_rate: 1e-3
epochs: 1
"""


def boolq_rows(count, seed):
    """Rows as in the files of BoolQ (Clark et al., 2019): question, title, answer true or false, passage."""
    texts = sentences(2 * count, seed)
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [{"question": q, "title": "t", "answer": n % 3 != 0, "passage": p} for n, (q, p) in enumerate(pairs)]


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def home(tmp_path):
    """A folder with boolq.yaml and its data, away from the current folder."""
    folder = tmp_path / "own"
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / "train.jsonl", boolq_rows(24, 0))
    write_rows(folder / "data" / "val.jsonl", boolq_rows(12, 1))
    (folder / "boolq.yaml").write_text(BOOLQ)
    return folder


def changed(home, file="boolq.yaml", **changes):
    """boolq.yaml with other lines; None takes one away."""
    lines = dict(line.split(": ", 1) for line in BOOLQ.splitlines()) | changes
    (home / file).write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None))
    return home / file


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"), rows=16, dev=8)


@pytest.fixture
def run(tmp_path):
    return toy_run(tmp_path / "toy", steps=(10, 20))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
    """Drawing takes a second; the first test looks at what is drawn."""
    if request.node.name != "test_own_tasks_stand_beside_those_of_glue":
        monkeypatch.setattr("recipe.report.scores.draw", lambda *_, **__: None)


@pytest.fixture
def do(monkeypatch, run, glue, tmp_path):
    start = sweep_here(monkeypatch)

    def sweep(*tasks, runs=None):
        data = ("--glue_data", str(glue), "--prepared_dir", str(tmp_path / "prepared"))
        runs = map(str, runs or [run])
        return start(["--runs", *runs, "--tasks", *map(str, tasks), *data, "--max_seq_length", "48", "--use_cpu"])

    return sweep


def test_own_tasks_stand_beside_those_of_glue(do, home, run, capsys):
    similar = [{"a": t, "b": t, "much": n / 4} for n, t in enumerate(sentences(20, 5))]
    write_rows(home / "similar.jsonl", similar)
    (home / "similar.yaml").write_text(
        "name: Similar\ntrain: similar.jsonl\nvalidation: similar.jsonl\ntexts: [a, b]\nlabel: much\n"
        "metric: spearman\nepochs: 1\n"
    )
    assert do("rte", home / "boolq.yaml", home / "similar.yaml")[0] == 0
    records = {(r["checkpoint"]["step"], r["task"]): r for r in read_results(run / "glue")}
    assert {task for _, task in records} == {"rte", "BoolQ", "Similar"} and len(records) == 6
    boolq = records[20, "BoolQ"]
    assert boolq["headline"]["metric"] == "accuracy" and boolq["examples"]["validation"]["used"] == 12
    assert boolq["settings"]["learning_rate"] == 1e-3 and boolq["settings"]["num_train_epochs"] == 1
    assert records[20, "Similar"]["headline"]["metric"] == "spearmanr"
    shown = capsys.readouterr().out
    table = (run / "glue" / "glue.md").read_text()
    for text in (shown, table):
        assert "BoolQ" in text and "Similar" in text and "RTE" in text
    assert "BoolQ accuracy, Similar Spearman correlation" in table and "GLUE average" not in table
    assert "Seeds: 1." in table
    assert "told apart on" in table and "BoolQ" in table.split("told apart on")[1]
    card = ModelCard.load(run / "checkpoint-20" / "README.md", ignore_metadata_errors=True).data
    names = {result.dataset_name: result.metric_value for result in card.eval_results}
    assert names["BoolQ"] == round(100 * boolq["headline"]["value"], 2)
    rows = {row.column: row for row in compare(str(run / "checkpoint-10"), str(run / "checkpoint-20"))}
    assert rows["BoolQ"].found is not None and rows["Similar"].found is not None
    # What is kept of a published sweep is its csv file.
    shutil.rmtree(run / "glue" / "jobs")
    assert rebuild(run / "glue") == "no results yet"
    frame = read_frame(run / "glue", default_suite())
    assert cells_of(frame).loc["toy/checkpoint-20", ("BoolQ", "mean")] == 100 * boolq["headline"]["value"]


def test_a_changed_task_is_scored_again_and_another_one_not(do, home, run):
    other = changed(home, "other.yaml", name="Other")
    assert len(do(home / "boolq.yaml", other)[1].order) == 4
    assert do(home / "boolq.yaml", other)[1].order == []
    write_rows(home / "data" / "note.jsonl", boolq_rows(30, 0))
    changed(home, train="data/note.jsonl")
    assert do(home / "boolq.yaml", other)[1].order == [("BoolQ", 1), ("BoolQ", 1)]
    write_rows(home / "data" / "note.jsonl", boolq_rows(28, 0))
    assert do(home / "boolq.yaml", other)[1].order == [("BoolQ", 1), ("BoolQ", 1)]
    assert read_results(run / "glue")[0]["examples"]["train"]["used"] == 28


@pytest.mark.parametrize("metric", ["f1", "mcc"])
def test_other_metrics_of_classes(do, home, run, metric):
    task = changed(home, metric=metric, labels="[true, false]", epochs="3")
    assert do(task)[0] == 0
    record = read_results(run / "glue")[-1]
    kept = np.load(run / "glue" / "jobs" / "toy-checkpoint-20" / "BoolQ-seed1" / "outcomes.npz")
    predicted, true = kept["validation/prediction"], kept["validation/reference"]
    assert true.tolist() == [int(n % 3 == 0) for n in range(12)]  # in the order of `labels`: false is class 1
    both = (predicted * true).sum()
    f1 = 2 * both / (predicted.sum() + true.sum())
    expected = {"f1": f1, "mcc": matthews_corrcoef(true, predicted)}[metric]
    assert record["headline"]["value"] == pytest.approx(expected)


def test_run_glue_takes_a_task_file(home, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    argv = ["run_glue.py", "--model_name_or_path", str(run / "checkpoint-20"), "--task_name", "boolq.yaml",
            "--do_train", "--do_eval", "--use_cpu", "--max_seq_length", "48", "--output_dir", str(tmp_path / "out"),
            "--prepared_dir", str(tmp_path / "prepared")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", argv)
    assert run_glue.main() == 0
    assert "BoolQ validation: accuracy" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_samples"] == 12 and 0 <= results["eval_accuracy"] <= 1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "False", "1": "True"}


WRONG = [
    ({"metric": "bleu"}, r"found metric: bleu, expected one of accuracy, f1, mcc, pearson, spearman"),
    ({"metric": None}, r"has no 'metric', expected one"),
    ({"texts": None}, r"has no 'texts', expected one"),
    ({"name": None}, r"has no 'name', expected one"),
    ({"name": "a/b"}, r"found name: 'a/b', expected letters"),
    ({"label": ""}, r"found label: '', expected a text"),
    ({"texts": "[a, b, c]"}, r"found texts: \['a', 'b', 'c'\], expected the names of one column or two"),
    ({"labels": "[yes]"}, r"found labels: yes, expected two or more"),
    ({"labels": "[a, b, c]", "metric": "f1"}, r"found 3 labels beside metric: f1"),
    ({"labels": "[a, b]", "metric": "pearson"}, r"found labels beside metric: pearson"),
    ({"colour": "red"}, r"found the key 'colour', expected some of name"),
    ({"epochs": "none"}, r"found epochs: 'none', expected a number above 0"),
    ({"batch_size": "1.5"}, r"found batch_size: '1.5', expected a whole number above 0"),
    ({"learning_rate": "nan"}, r"found learning_rate: 'nan', expected a number above 0"),
    ({"train": "gone.jsonl"}, r"found no file .*gone.jsonl \(train\)"),
    ({"train": None}, r"has no 'train', expected a file"),
    ({"train": None, "validation": None}, r"has neither files nor a dataset"),
    ({"dataset": "google/boolq"}, r"has both dataset and files"),
    ({"config": "x"}, r"found config beside files"),
    ({"quoting": "maybe"}, r"found quoting: maybe, expected one of"),
    ({"delimiter": "::"}, r"::"),
    ({"encoding": "utf-9"}, r"utf-9"),
    ({"name": "["}, r"cannot read the task file .*boolq.yaml: .*correct the YAML"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_task_file_is_one_line(home, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        read_own_task(str(changed(home, **changes)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": "[question, context]"}, r"expected one called 'context': correct 'texts' in .*boolq.yaml"),
        ({"label": "label"}, r"expected one called 'label': correct 'label' in .*boolq.yaml"),
        ({"labels": "[yes, no]"}, r"train.jsonl, line 1: found the label 'False', expected one of yes, no"),
        ({"metric": "pearson"}, r"found the label 'False', expected a number: a regression has scores"),
        ({"name": "rte"}, r"found name: rte, which is that of another task, expected one of its own"),
        ({"name": "SST-2"}, r"found name: SST-2, which is that of another task"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_job(do, home, run, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        do(changed(home, **changes))
    assert "\n" not in str(refused.value) and not (run / "glue").exists()


def test_f1_needs_two_classes(do, home):
    rows = [row | {"answer": "abc"[n % 3]} for n, row in enumerate(boolq_rows(24, 0))]
    write_rows(home / "data" / "train.jsonl", rows)
    write_rows(home / "data" / "val.jsonl", rows)
    with pytest.raises(
        UserError, match=r"found metric: f1, that of two classes, and the classes a, b, c: use accuracy"
    ):
        do(changed(home, metric="f1"))


def test_two_files_of_one_name_and_no_file(do, home, tmp_path):
    with pytest.raises(UserError, match=r"boolq.yaml: found name: BoolQ, which is that of .*other.yaml"):
        do(home / "boolq.yaml", changed(home, "other.yaml"))
    with pytest.raises(UserError, match=r"cannot read the task file .*none.yaml: No such file"):
        do(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"list.yaml holds no keys, expected a task"):
        do(tmp_path / "list.yaml")
    with pytest.raises(UserError, match=r"found the unknown task 'boolq', .* or a .yaml file with one of your own"):
        do("boolq")


def test_the_title_of_a_table_says_whose_tasks_they_are():
    assert suites_with({"rte": "accuracy"})[0].title == "GLUE"
    assert suites_with({"rte": "accuracy", "BoolQ": "accuracy"})[0].title == "GLUE and own tasks"
    assert suites_with({"BoolQ": "accuracy"})[0].title == "Own tasks"
