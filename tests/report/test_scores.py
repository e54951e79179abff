"""recipe.report.scores, recipe.report.score_curves, recipe.report.card, recipe.report.wandb_scores: numbers that say what they are."""

import io
import json
import sys

import pandas as pd
import pytest
from glue_toys import record, toy_run
from huggingface_hub import ModelCard
from toy_scores import every_task, history_of, read_wandb

from recipe.finetune.glue.suite import SUITE
from recipe.finetune.results import result_file
from recipe.report import scores
from recipe.report.score_curves import draw
from recipe.report.score_frames import average, best_of_grid, cells_of, rows_of
from recipe.report.scores import rebuild
from recipe.report.table import table_of
from recipe.system.errors import UserError
from recipe.system.files import write_json


def row_of(table, name):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    return next(dict(zip(lines[0], line, strict=True)) for line in lines if line[0] == name)


def test_mean_and_spread_over_seeds():
    row = row_of(table_of(rows_of([record(seed=1, value=0.2), record(seed=2, value=0.4)])), "toy/checkpoint-10")
    assert row["CoLA"] == "30.0 ± 14.1 (2)"  # sample deviation: 10 x sqrt(2)
    assert (row["step"], row["tokens"]) == ("10", "640")
    assert row_of(table_of(rows_of([record(value=0.2)])), "toy/checkpoint-10")["CoLA"] == "20.0"


def test_both_averages_by_hand():
    values = {"cola": 0.1, "sst2": 0.2, "mrpc": 0.3, "stsb": 0.4, "qqp": 0.5, "mnli": 0.6, "qnli": 0.7, "rte": 0.8,
              "wnli": 0.9}  # fmt: skip
    results = [record(task, value=value) for task, value in values.items()]
    results[5]["metrics"]["validation_mismatched"]["accuracy"] = 0.0
    table = table_of(rows_of(results))
    row = row_of(table, "toy/checkpoint-10")
    assert row["average"] == "45.0"  # (10 + 20 + ... + 80) / 8: without WNLI and without MNLI's second half
    assert row["average without CoLA"] == "48.9"  # (20+30+40+50+60+0+70+80+90) / 9: without CoLA
    assert row["MNLI-m"] == "60.0" and row["MNLI-mm"] == "0.0"
    assert "mean of" not in table.splitlines()[0]
    assert "average: mean of 8 columns, CoLA, SST-2, MRPC, STS-B, QQP, MNLI-m, QNLI, RTE" in table
    assert "Only part of" not in table and "grid" not in table and "MNLI model" not in table


def test_a_missing_cell_is_missing_and_never_averaged_over():
    results = every_task(step=10) + [r for r in every_task(step=20) if r["task"] != "rte"]
    table = table_of(rows_of(results))
    assert row_of(table, "toy/checkpoint-10")["average"] == "50.0"
    later = row_of(table, "toy/checkpoint-20")
    assert (later["RTE"], later["average"], later["average without CoLA"]) == ("–", "–", "–")
    del results[5]["metrics"]["validation_mismatched"]  # MNLI of step 10 without its second half
    first = row_of(table_of(rows_of(results)), "toy/checkpoint-10")
    assert (first["MNLI-mm"], first["average"], first["average without CoLA"]) == ("–", "50.0", "–")


def test_a_mean_of_some_tasks_is_called_so():
    results = [record("cola", value=0.2), record("rte", value=0.6), record("cola", value=0.3, step=20)]
    table = table_of(rows_of(results))
    assert row_of(table, "toy/checkpoint-10")["mean of 2 tasks"] == "40.0"
    assert row_of(table, "toy/checkpoint-20")["mean of 2 tasks"] == "–"
    assert row_of(table, "toy/checkpoint-10")["average"] == "–"
    assert "mean of 2 tasks: CoLA, RTE alone; it is no GLUE average." in table


def test_subsets_and_mnli_starts_are_said():
    part = record("rte")
    part["examples"]["train"] |= {"used": 500, "subset": True}
    table = table_of(rows_of([part, record("stsb", started_from_mnli="m")]))
    assert "Only part of the official training examples: rte 500." in table
    assert "Only part of the official dev" not in table
    assert "Started from the MNLI model of the same checkpoint and seed: stsb." in table


def test_the_grid_shows_its_best_point_by_the_mean_over_seeds():
    points = {"a": (0.9, 0.1), "b": (0.6, 0.6), "c": (0.7,)}  # c has one seed and shares only that with the others
    results = [record(seed=s, value=v, variant=p) for p, values in points.items() for s, v in enumerate(values)]
    kept, chosen = best_of_grid(rows_of(results[:4]))
    assert chosen == {("toy/checkpoint-10", "cola"): ("b", 2)} and kept["score"].tolist() == [0.6, 0.6]
    _, chosen = best_of_grid(rows_of(results))
    assert chosen == {("toy/checkpoint-10", "cola"): ("a", 3)}
    assert "best on dev of a grid of 2, so these scores flatter: toy/checkpoint-10 cola: b" in table_of(
        rows_of(results[:4])
    )


def test_baselines_come_first_and_checkpoints_by_step():
    about = record(step=100)["checkpoint"]
    hub = record(checkpoint=about | {"name": "user/model", "step": None, "tokens_seen": None})
    cells = cells_of(rows_of([record(step=100), record(step=20), hub]))
    assert list(cells.index) == ["user/model", "toy/checkpoint-20", "toy/checkpoint-100"]
    assert average(cells, ("CoLA",)).tolist() == [50.0] * 3
    assert "| –    |" in table_of(rows_of([hub]))


@pytest.fixture
def no_picture(monkeypatch):
    """Drawing eleven panels takes a second; two tests look at it."""
    monkeypatch.setattr("recipe.report.scores.draw", lambda frame, cells, file: None)


@pytest.fixture
def swept(tmp_path):
    """The folder of a finished sweep over two checkpoints and two seeds, with its run."""
    run = toy_run(tmp_path / "toy", steps=(10, 20))
    for step in (10, 20):
        for seed in (1, 2):
            for made in every_task(step=step, seed=seed, value=0.4 + step / 100 + seed / 50):
                made["checkpoint"]["path"] = str(run / f"checkpoint-{step}")
                write_json(result_file(run / "glue" / "jobs" / f"toy-checkpoint-{step}", made["task"], seed), made)
    return run / "glue"


def test_rebuilt_by_one_command(swept, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe.report.scores", str(swept.parent)])  # the run's folder does too
    assert scores.main() == 0
    table = (swept / "glue.md").read_text()
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and printed.count("toy/checkpoint-20") > 1
    cells = row_of(table, "toy/checkpoint-20")
    assert all(printed.count(value) for title, value in cells.items() if title != "checkpoint")
    assert row_of(table, "toy/checkpoint-20")["average"] == "63.0"
    frame = pd.read_csv(swept / "glue.csv")
    assert len(frame) == 2 * 2 * 9 and frame["batch_size"].unique().tolist() == [8]
    assert {"checkpoint", "step", "tokens_seen", "task", "seed", "metric", "score", "weights_sha256"} <= set(frame)
    assert (swept / "glue.png").read_bytes().startswith(b"\x89PNG")
    (swept / "jobs" / "toy-checkpoint-20" / "rte-seed1.json").write_text("{ torn")
    (swept / "jobs" / "toy-checkpoint-20" / "rte-seed2.json").unlink()
    rebuild(swept)
    assert row_of((swept / "glue.md").read_text(), "toy/checkpoint-20")["RTE"] == "–"
    monkeypatch.setattr(sys, "argv", ["recipe.report.scores", str(swept / "jobs")])
    with pytest.raises(UserError, match="found no results under"):
        scores.main()


def test_what_the_picture_shows(monkeypatch):
    results = [r for step in (10, 20) for seed in (1, 2) for r in every_task(step=step, seed=seed, value=seed / 10)]
    results += every_task(checkpoint=record()["checkpoint"] | {"name": "random:x", "step": 0, "tokens_seen": 0})
    frame = rows_of(results)
    figures = []
    monkeypatch.setattr("recipe.report.score_curves.plt.close", figures.append)
    draw(frame, cells_of(frame), io.BytesIO())
    panels = [axis for axis in figures[0].axes if axis.get_title()]
    assert [axis.get_title().split(" (")[0] for axis in panels] == ["average of 8 tasks", *SUITE.columns]
    curve = next(line for line in panels[1].lines if line.get_label() == "toy")
    assert curve.get_xdata().tolist() == [10, 20] and curve.get_ydata() == pytest.approx([15, 15])
    baseline = next(line for line in panels[1].lines if line.get_label() == "random:x")
    assert baseline.get_ydata() == [50, 50] and baseline.get_linestyle() == "--"
    band = next(c for c in panels[1].collections)
    assert band.get_datalim(panels[1].transData).intervaly == pytest.approx([10, 20])
    (tokens,) = panels[1].child_axes
    figures[0].canvas.draw()
    assert tokens.get_xlim() == pytest.approx(tuple(64 * x for x in panels[1].get_xlim()))
    assert panels[1].get_xscale() == "linear"
    ticks = [tick.get_text() for tick in tokens.get_xticklabels()]
    assert len(set(ticks)) == len(ticks) > 2  # not rounded to the same
    half = frame[~((frame["task"] == "rte") & (frame["step"] == 20))]
    draw(half, cells_of(half), io.BytesIO())
    assert figures[1].axes[0].get_title() == "mean of 7 tasks (no GLUE average)"
    far = frame.assign(step=frame["step"].replace(20, 80), tokens_seen=64 * frame["step"].replace(20, 80))
    draw(far, cells_of(far), io.BytesIO())
    assert figures[2].axes[0].get_xscale() == "log"
    figures[2].canvas.draw()
    shown = [axis for axis in (figures[2].axes[0], *figures[2].axes[0].child_axes)]
    labels = [[tick.get_text() for tick in axis.get_xticklabels(which="both") if tick.get_text()] for axis in shown]
    assert labels == [["10", "80"], ["640", "5k"]]  # the checkpoints, and no label between them


def test_model_card(swept, no_picture):
    rebuild(swept)
    folder = swept.parent / "checkpoint-20"
    card = ModelCard.load(folder / "README.md")
    results = {(r.dataset_config, r.dataset_split): r for r in card.data.eval_results}
    assert results.pop((None, None)).dataset_type == "validation"  # of the pre-training
    assert set(results) == {(column.task, column.split) for column in SUITE.columns.values()}
    rte = results["rte", "validation"]
    assert (rte.metric_type, rte.metric_value, rte.dataset_type) == ("accuracy", 63.0, "nyu-mll/glue")
    assert rte.metric_args["seeds"] == [1, 2]
    for said in ("after 20 steps and 1,280 tokens", "`toys`", "| sequences per step | 4 |", "| 5.5 |"):
        assert said in card.content
    from recipe.system.manifest import damage

    assert damage(folder) is None  # a card makes no checkpoint damaged
    (folder / "README.md").write_text("my own words")
    rebuild(swept)
    assert (folder / "README.md").read_text() == "my own words"
    (folder / "README.md").write_text("<!-- written by python -m recipe.scores: it will be overwritten -->\nold scores")
    rebuild(swept)
    assert "old scores" not in (folder / "README.md").read_text()  # a card of an earlier version is still replaced


def test_push_needs_a_name(swept, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.report.scores", str(swept), "--push_to_hub"])
    with pytest.raises(UserError, match="without --hub_model_id"):
        scores.main()


def test_dry_run_of_a_push_lists_the_files_and_touches_nothing(swept, monkeypatch, capsys):
    folder = swept.parent / "checkpoint-20"
    (folder / "optimizer.pt").write_bytes(b"12345")
    before = {path: path.stat().st_mtime_ns for path in swept.parent.rglob("*")}
    argv = ["recipe.report.scores", str(swept), "--push_to_hub", "--hub_model_id", "user/name", "--dry_run"]
    monkeypatch.setattr(sys, "argv", argv)
    assert scores.main() == 0
    assert {path: path.stat().st_mtime_ns for path in swept.parent.rglob("*")} == before
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{folder} -> user/name, branch checkpoint-20: ") for line in lines)
    assert f"  {(folder / 'config.json').stat().st_size:>15,}  config.json" in lines
    assert "                5  optimizer.pt (left out)" in lines
    monkeypatch.setattr(sys, "argv", ["recipe.report.scores", str(swept), "--dry_run"])
    with pytest.raises(UserError, match="without --push_to_hub"):
        scores.main()


# ---- W&B, read back from its files


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


def test_the_pretraining_s_run_goes_on_with_the_curve(swept, offline, monkeypatch, no_picture):
    monkeypatch.setenv("WANDB_RUN_ID", "pretraining1")
    rebuild(swept, tracker="wandb")
    (file,) = swept.glob("wandb/offline-run-*/*.wandb")
    assert file.name == "run-pretraining1.wandb"
    records = read_wandb(file)
    rows = [row for row in history_of(records) if "glue/average" in row]
    assert [row["train/global_step"] for row in rows] == [10, 20]
    assert [row["glue/average"] for row in rows] == pytest.approx([53.0, 63.0])
    assert rows[1]["glue/rte"] == pytest.approx(63.0) and rows[1]["tokens_seen"] == 1280
    assert {"glue/cola", "glue/mnli", "glue/mnli_mm", "glue/wnli"} <= set(rows[0])
    axes = {r.metric.glob_name or r.metric.name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["glue/*"] == "train/global_step"
    rebuild(swept, tracker="wandb")
    assert len(list(swept.glob("wandb/offline-run-*"))) == 1  # nothing new: nothing is logged twice


def test_a_run_a_job_in_the_group_of_its_pretraining(tmp_path, offline):
    from recipe.report.wandb_scores import log_job

    history = [{"step": 5, "loss": 0.7, "learning_rate": 1e-3}, {"step": 9, "train_loss": 0.6}]
    log_job({"group": "toy", "folder": str(tmp_path)}, record("rte", seed=3, value=0.6), history)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = read_wandb(file)
    run = next(r.run for r in records if r.HasField("run"))
    assert (run.run_group, run.job_type, run.display_name) == ("toy", "glue", "toy/checkpoint-10/rte/3")
    assert [row["loss"] for row in history_of(records) if "loss" in row] == [0.7]
    summary = {
        u.nested_key[0] if u.nested_key else u.key: u.value_json
        for r in records
        if r.HasField("summary")
        for u in r.summary.update
    }
    assert json.loads(summary["headline"]) == 0.6


def test_a_tracker_that_fails_costs_a_line(swept, monkeypatch, capsys, no_picture):
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    assert "toy/checkpoint-20" in rebuild(swept, tracker="wandb")
    assert "warning: wandb: division by zero" in capsys.readouterr().out
