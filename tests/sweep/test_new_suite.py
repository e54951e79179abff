"""recipe.finetune.suites: a suite is one record. Two that are defined here, one zero-shot and one that trains, are swept
to table, curve, model card, report and W&B by nothing but their registration."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from glue_toys import sentences, sweep_here, toy_run
from huggingface_hub import ModelCard
from toy import REPOSITORY
from toy_scores import history_of, read_wandb
from transformers import AutoModelForMaskedLM

from recipe.cli.parser import option
from recipe.finetune.arguments import StartArguments
from recipe.finetune.results import build_record, read_results
from recipe.finetune.starting_point import origin_of, tokenizer_of
from recipe.finetune.suite import NO_SEED, Average, Column, Suite, TaskInfo
from recipe.finetune.suites import SUITES
from recipe.report.page import ReportArguments, report_of
from recipe.system.errors import UserError

# ---- a zero-shot suite: which of two sentences does the model find likelier?


@dataclass
class PairArguments(StartArguments):
    """Pairs of an acceptable sentence and another one."""

    pairs: str = option("", "A JSON file for each task, in this folder.")
    task_name: str = option("", "Its name.")


@dataclass
class PairRun:
    """Where the result goes: no seed, no learning rate, no TrainingArguments."""

    output_dir: str = option("", "Folder of the result.")

    def __post_init__(self):
        self.unused = []


@dataclass
class PairScores:
    """The model and the pairs of one job."""

    data: PairArguments

    def evaluate(self) -> dict:
        tokenizer, model = tokenizer_of(self.data), AutoModelForMaskedLM.from_pretrained(self.data.model_name_or_path)
        likelihoods = []
        for text in (text for pair in read_pairs(self.data) for text in pair):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                logits = model.eval()(input_ids=ids).logits.log_softmax(-1)
            likelihoods.append(logits.gather(-1, ids[..., None]).sum().item())
        good, bad = likelihoods[::2], likelihoods[1::2]
        return {"validation": {"accuracy": sum(a > b for a, b in zip(good, bad, strict=True)) / len(good)}}

    def record(self, scores: dict) -> dict:
        used = len(read_pairs(self.data))
        return build_record(
            task=self.data.task_name, origin=origin_of(self.data), seed=NO_SEED, headline="accuracy", scores=scores,
            sizes={"validation": {"used": used, "official": used, "subset": False}}, source=self.data.pairs,
            settings={"max_seq_length": self.data.max_seq_length}, seconds=0.5,
        )  # fmt: skip

    def write_predictions(self, folder: Path) -> list[Path]:
        return []


def read_pairs(data: PairArguments) -> list:
    return json.loads(Path(data.pairs, f"{data.task_name}.json").read_text())


PAIRS = Suite(
    name="pairs",
    title="Pairs",
    tasks={task: TaskInfo(task.title(), f"toys/{task}", {"validation": 12}) for task in ("agreement", "order")},
    columns={task.title(): Column(task, "validation", "accuracy") for task in ("agreement", "order")},
    metric_names={"accuracy": "accuracy"},
    script="run_pairs.py",
    launcher="pairs.sh",
    arguments=lambda: (PairArguments, PairRun),
    prepare=lambda data, args: PairScores(data),
    cost=lambda data, args: len(read_pairs(data)),
    settings=("pairs", "max_seq_length"),
    job_flags=(),
    final_flags=(),
    trains=False,
    averages=(Average("pair average", ("Agreement", "Order")),),
    protocol="of pairs whose acceptable sentence the model finds likelier, without training",
    notes=("Chance is 50.0.",),
    task_type="text-generation",
    tag="pairs",
)

# ---- a suite that trains: classification of the user's own rows, by GLUE's code


def colours_suite(folder: Path) -> Suite:
    glue = SUITES["glue"]
    return Suite(
        name="colours",
        title="Colours",
        tasks={"colours.csv": TaskInfo("Colours", "toys/colours", {"train": 24, "validation": 8}, epochs=1)},
        columns={"Colour": Column("colours.csv", "validation", "accuracy", key="accuracy", dataset="Colours of toys")},
        metric_names={"accuracy": "share of right colours"},
        script="run_glue.py",
        launcher="colours.sh",
        arguments=glue.arguments,
        prepare=glue.prepare,
        cost=glue.cost,
        settings=("train_file", "max_seq_length"),
        task_flags=lambda task: ("--train_file", f"{folder / task}", "--validation_file", f"{folder / task}"),
        task_type="text-classification",
        tag="colours",
        auto_class="AutoModelForSequenceClassification",
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    run = toy_run(tmp_path / "toy", steps=(10, 20))
    (run / "log.jsonl").write_text('{"step": 20, "loss": 5.0}\n')
    return run


def table_in(file: Path) -> dict[str, dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in file.read_text().splitlines()]
    head, _, *rows = [line for line in lines if len(line) > 1]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_a_zero_shot_suite_is_one_record(run, tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "pairs", PAIRS)
    for seed, task in enumerate(PAIRS.tasks):
        texts = sentences(24, seed)
        (tmp_path / f"{task}.json").write_text(json.dumps(list(zip(texts[::2], texts[1::2], strict=True))))
    argv = ["--runs", str(run), "--tasks", *PAIRS.tasks, "--pairs", str(tmp_path), "--max_seq_length", "48"]
    code, engine = sweep_here(monkeypatch)([*argv, "--report_to", "wandb"])
    assert code == 0 and len(engine.order) == 4  # two checkpoints, two tasks, and no seeds
    folder = run / "pairs"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        "jobs", "pairs.csv", "pairs.md", "pairs.png", "run.json", "wandb",
    }  # fmt: skip
    accuracies = {(r["checkpoint"]["step"], r["task"]): r["metrics"]["validation"] for r in read_results(folder)}
    wanted = [100 * accuracies[20, task]["accuracy"] for task in PAIRS.tasks]
    row = table_in(folder / "pairs.md")["toy/checkpoint-20"]
    assert [row["Agreement"], row["Order"]] == [f"{value:.1f}" for value in wanted]
    assert row["pair average"] == f"{sum(wanted) / 2:.1f}"
    notes = (folder / "pairs.md").read_text().split("\n- ")[1:]
    assert notes[0] == (
        "Scores are percentages of pairs whose acceptable sentence the model finds likelier, without training; – is a "
        "missing result."
    )
    assert notes[-1].strip() == "Chance is 50.0." and len(notes) == 4
    results = {r.dataset_type: r for r in ModelCard.load(run / "checkpoint-20" / "README.md").data.eval_results}
    assert results.pop("validation").task_type == "fill-mask"  # of the pre-training
    assert set(results) == {"toys/agreement", "toys/order"}
    order = results["toys/order"]
    assert order.metric_value == pytest.approx(wanted[1], abs=0.01) and order.dataset_name == "Pairs Order"
    assert order.task_name == "Pairs Order, zero-shot" and order.metric_args == {"unit": "percent"}
    page = report_of([run], ReportArguments(max_checkpoints=0))
    assert '<h2 id="Pairs">Pairs</h2>' in page and "Pairs scores of 2 models" in page
    assert "one seed" not in page and "There is no GLUE score yet" in page
    rows = [row for file in folder.glob("wandb/offline-run-*/*.wandb") for row in history_of(read_wandb(file))]
    last = next(row for row in rows if row.get("train/global_step") == 20)
    assert last["pairs/order"] == pytest.approx(wanted[1]) and last["pairs/average"] == pytest.approx(sum(wanted) / 2)
    with pytest.raises(UserError, match="Pairs trains nothing: leave them out"):
        sweep_here(monkeypatch)([*argv, "--seeds", "1", "2"])
    with pytest.raises(UserError, match="expected those of Pairs or those of GLUE: two sweeps"):
        sweep_here(monkeypatch)(["--runs", str(run), "--tasks", "order", "rte"])


def test_a_suite_that_trains_is_one_record(run, tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "colours", colours_suite(tmp_path))
    rows = [f"{text},{('red', 'blue')[n % 2]}" for n, text in enumerate(sentences(24, 2)) if '"' not in text]
    (tmp_path / "colours.csv").write_text("\n".join(["sentence,label", *rows]) + "\n")
    code, engine = sweep_here(monkeypatch)([
        "--runs", str(run), "--tasks", "colours.csv", "--seeds", "1", "2", "--max_seq_length", "48", "--max_steps",
        "2", "--use_cpu", "true", "--prepared_dir", str(tmp_path / "prepared"),
    ])  # fmt: skip
    assert code == 0 and engine.order == [("colours.csv", 1), ("colours.csv", 2)] * 2
    values = [r["headline"]["value"] for r in read_results(run / "colours") if r["checkpoint"]["step"] == 20]
    row = table_in(run / "colours" / "colours.md")["toy/checkpoint-20"]
    assert row["Colour"].startswith(f"{50 * sum(values):.1f} ± ") and "average" not in row
    assert "Metrics: Colour share of right colours." in (run / "colours" / "colours.md").read_text()
    assert (run / "colours" / "colours.png").read_bytes().startswith(b"\x89PNG")
    *_, result = ModelCard.load(run / "checkpoint-20" / "README.md").data.eval_results
    assert result.task_name == "Colours of toys, after fine-tuning" and result.metric_args["seeds"] == [1, 2]


def test_a_suite_that_should_train_and_has_no_trainer_is_a_failed_job(run, tmp_path, monkeypatch):
    untrained = replace(colours_suite(tmp_path), prepare=lambda data, args: PairScores(data))
    monkeypatch.setitem(SUITES, "colours", untrained)
    rows = [f"{text},{('red', 'blue')[n % 2]}" for n, text in enumerate(sentences(24, 2)) if '"' not in text]
    (tmp_path / "colours.csv").write_text("\n".join(["sentence,label", *rows]) + "\n")
    argv = ["--runs", str(run), "--tasks", "colours.csv", "--max_seq_length", "48", "--max_steps", "2"]
    code, _ = sweep_here(monkeypatch)([*argv, "--prepared_dir", str(tmp_path / "prepared")])
    failure = next((run / "colours").rglob("*.error.txt")).read_text()
    assert code != 0 and "Colours is a suite that trains, but what its `prepare` returns has no trainer" in failure
    assert not read_results(run / "colours")


# ---- the registry


def test_names_are_unique_and_every_record_is_complete():
    suites = SUITES.values()
    for names in (
        [task for suite in suites for task in suite.tasks],
        [column for suite in suites for column in suite.columns],
        [average.title for suite in suites for average in suite.averages],
        [suite.wandb_key(column) for suite in suites for column in suite.columns],
    ):
        assert len(set(names)) == len(names)
    for suite in suites:
        assert SUITES[suite.name] is suite and len(suite.arguments()) == 2
        assert (REPOSITORY / suite.script).is_file() and (REPOSITORY / suite.launcher).is_file()
        assert {column.task for column in suite.columns.values()} == set(suite.tasks)
        assert {column.metric for column in suite.columns.values()} <= set(suite.metric_names)
        assert {name for average in suite.averages for name in average.columns} <= set(suite.columns)
        assert set(suite.default_tasks) <= set(suite.tasks)
        assert {task.starts_from for task in suite.tasks.values()} - {""} <= set(suite.tasks)


def test_the_launcher_s_tasks_are_the_default_ones():
    text = (REPOSITORY / "finetune_glue.sh").read_text()
    assert f"export TASKS=${{TASKS:-{' '.join(SUITES['glue'].default_tasks)}}}\n" in text


def test_the_registry_loads_no_heavy_package():
    code = (
        "import sys, recipe.finetune.suites; "
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
