"""finetune_qa.sh: SQuAD by the sweep, three starting points in one table, cards, W&B, and jobs that continue."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from glue_toys import planned, prepare_by, sweep_here, toy_config, toy_run, toy_tokenizer
from qa_toys import StopAt
from toy import REPOSITORY

from recipe.finetune.results import read_results, result_file
from recipe.finetune.suites import SUITES
from recipe.report.scores import rebuild
from recipe.sweep import jobs
from recipe.sweep.jobs import run_job
from recipe.sweep.plan import candidates, parse_sweep
from recipe.system.errors import UserError
from recipe.system.files import write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("runs") / "toy", steps=(10, 20))


@pytest.fixture
def swept(run, squad, tmp_path):
    """The command line of a sweep over three starting points."""
    shutil.rmtree(run / "qa", ignore_errors=True)
    reference = shutil.copytree(run / "checkpoint-10", tmp_path / "reference", ignore=shutil.ignore_patterns("m*.json"))

    def make(*more, seeds="1 2"):
        return [
            "--runs", str(run), str(reference), f"random:{run}", "--newest", "true", "--tasks", "squad", "--seeds",
            *seeds.split(), "--dataset_name", str(squad), "--prepared_dir", str(tmp_path / "prepared"),
            "--max_seq_length", "48", "--doc_stride", "8", "--max_steps", "3", "--use_cpu", "true", *more,
        ]  # fmt: skip

    return make


@pytest.fixture
def do(monkeypatch):
    return sweep_here(monkeypatch)


def test_three_starting_points_in_one_table(do, swept, run, capsys):
    assert do(swept())[0] == 0
    table = (run / "qa" / "qa.md").read_text()
    printed = capsys.readouterr().out
    assert "toy/checkpoint-20" in printed and max(map(len, printed.split("random:toy", 1)[1].splitlines())) <= 80
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    assert lines[0] == ["checkpoint", "step", "tokens", "SQuAD EM", "SQuAD F1"]
    assert [line[0] for line in lines[2:]] == ["random:toy", "reference", "toy/checkpoint-20"]
    assert "± " in lines[4][4] and lines[4][1] == "20"
    assert "Only part of the official training examples: squad 22." in table and "GLUE" not in table
    results = read_results(run / "qa")
    assert len(results) == 6
    f1s = [r["metrics"]["validation"]["f1"] for r in results if r["checkpoint"]["name"] == "toy/checkpoint-20"]
    assert lines[4][4].startswith(f"{np.mean(f1s):.1f} ± ")  # percent is not made of percent again
    assert {path.name for path in (run / "qa").iterdir() if path.name[0] != "."} == {
        "jobs", "qa.csv", "qa.md", "qa.png", "run.json",
    }  # fmt: skip
    answers = sorted((run / "qa" / "jobs" / "toy-checkpoint-20").iterdir())
    assert [path.name for path in answers if path.name[0] != "."] == [
        "squad-seed1", "squad-seed1.json", "squad-seed2", "squad-seed2.json",
    ]  # fmt: skip
    assert (answers[-2] / "eval_nbest_predictions.json").exists()
    card = (run / "checkpoint-20" / "README.md").read_text()
    assert (
        "## SQuAD" in card
        and "type: question-answering" in card
        and "rajpurkar/squad" in card
        and "## GLUE" not in card
    )


def squad_record(run):
    """A job's JSON as recipe.finetune.qa.finetuning writes it."""
    from glue_toys import record

    made = record("rte", step=20) | {
        "task": "squad",
        "headline": {"metric": "f1", "split": "validation", "value": 61.5},
        "metrics": {"validation": {"exact_match": 48.5, "f1": 61.5, "loss": 2.0}},
        "examples": {
            "train": {"used": 8_198, "official": 87_599, "subset": True},
            "validation": {"used": 10_570, "official": 10_570, "subset": False},
        },
    }
    made["checkpoint"]["path"] = str(run / "checkpoint-20")
    return made


def test_a_card_and_a_table_with_both(run, monkeypatch, capsys):
    from glue_toys import record
    from toy_scores import every_task

    from recipe.report import scores

    shutil.rmtree(run / "qa", ignore_errors=True)
    monkeypatch.setattr("recipe.report.scores.draw", lambda frame, cells, file: None)
    asked = squad_record(run)
    stale = every_task(step=20)  # GLUE was scored before the run was moved; and there is a score of other weights
    stale.append(record("rte", step=20, seed=2, value=0.9))
    stale[-1]["checkpoint"]["sha256"] = "1" * 64
    for suite, results in (("glue", stale), ("qa", [asked])):
        for made in results:
            write_json(result_file(run / suite / "jobs" / "toy-checkpoint-20", made["task"], made["seed"]), made)
    monkeypatch.setattr(sys, "argv", ["recipe.report.scores", str(run)])
    assert scores.main() == 0
    header, _, row = (line for line in (run / "scores.md").read_text().splitlines() if line.startswith("|"))
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (header, row)), strict=True))
    assert (cells["CoLA"], cells["average"], cells["SQuAD EM"], cells["SQuAD F1"]) == ("50.0", "50.0", "48.5", "61.5")
    card = (run / "checkpoint-20" / "README.md").read_text()
    assert card.index("## GLUE") < card.index("## SQuAD") and "- glue" in card and "- squad" in card
    assert "Only part of the official training examples: squad 8,198." in card
    assert (run / "scores.md").exists() and "SQuAD" not in (run / "glue" / "glue.md").read_text()
    assert pytest.approx(0.615) == pd.read_csv(run / "qa" / "qa.csv")["score"][0]
    shutil.rmtree(run / "glue")


def test_the_job_and_the_score_in_wandb(run, tmp_path, monkeypatch):
    from toy_scores import history_of, read_wandb

    from recipe.report.wandb_scores import log_job

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setattr("recipe.report.scores.draw", lambda frame, cells, file: None)
    made = squad_record(run)
    write_json(result_file(tmp_path / "qa" / "jobs" / "toy-checkpoint-20", "squad", 1), made)
    rebuild(tmp_path / "qa", tracker="wandb")
    (file,) = tmp_path.glob("qa/wandb/offline-run-*/*.wandb")
    (row,) = [row for row in history_of(read_wandb(file)) if "qa/squad_f1" in row]
    assert (row["train/global_step"], row["qa/squad_em"], row["qa/squad_f1"]) == (20, 48.5, 61.5)
    assert not any(name.startswith("glue/") for name in row)
    log_job({"group": "toy", "folder": str(tmp_path / "job")}, made, [{"step": 1, "loss": 3.0}])
    (file,) = tmp_path.glob("job/wandb/offline-run-*/*.wandb")
    described = next(r.run for r in read_wandb(file) if r.HasField("run"))
    assert (described.job_type, described.display_name) == ("qa", "toy/checkpoint-20/squad/1")


def test_a_job_that_was_killed_continues(swept, run, monkeypatch, tmp_path):
    more = ("--save_steps", "1", "--max_steps", "5")
    job, whole = (
        planned(swept(*more, seeds="1"))[0],
        planned(swept(*more, "--results_dir", str(tmp_path / "w"), seeds="1"))[0],
    )
    assert run_job(whole, 0).state == "done"
    original = SUITES["qa"].prepare

    def killed(data, args):
        work = original(data, args)
        work.trainer.add_callback(StopAt(4))
        return work

    prepare_by(killed, "qa", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, 0)
    left = shutil.copytree(job.work, job.work.with_suffix(".left"))
    begun, models = [], []

    def watched(data, args):
        work = original(data, args)
        models.append(work.trainer.model)
        train = work.trainer.train
        work.trainer.train = lambda resume_from_checkpoint: (
            begun.append(resume_from_checkpoint) or train(resume_from_checkpoint)
        )
        return work

    prepare_by(watched, "qa", monkeypatch)
    assert run_job(job, 0).state == "done"
    assert begun[0].endswith("checkpoint-3") and not job.work.exists()
    first, second = (json.loads(j.result.read_text()) for j in (job, whole))
    assert first["metrics"] == second["metrics"]
    # What was begun by another command is not continued.
    other = planned(swept(*more, "--learning_rate", "1e-3", seeds="1"))[0]
    left.rename(job.work)
    assert jobs.resumable_checkpoint(job, models[0]).endswith("checkpoint-3")
    assert jobs.resumable_checkpoint(other, models[0]) is None and not list(job.work.glob("ch*"))


def test_tasks_of_two_suites_are_two_sweeps(swept):
    with pytest.raises(UserError, match="two sweeps"):
        parse_sweep(swept("--tasks", "squad", "rte"))
    with pytest.raises(UserError, match="unknown task 'squad3'"):
        parse_sweep(swept("--tasks", "squad3"))


def test_fresh_weights_of_a_run_that_is_not_over(run, tmp_path):
    assert not (run / "config.json").exists()
    assert candidates([f"random:{run}"])[0][0].source == f"random:{run / 'checkpoint-20'}"
    assert [model.name for model in candidates([str(run)], newest=True)[0]] == ["toy/checkpoint-20"]
    assert toy_config().hidden_size == 16 and toy_tokenizer()


def test_the_launcher_prints_what_it_would_run(run, squad):
    environment = {
        **os.environ, "DRY_RUN": "1", "RUN": str(run), "REFERENCE": "roberta-base", "SEEDS": "1 2", "EPOCHS": "2",
        "SQUAD_DATA": str(squad), "LEARNING_RATES": "1e-4 3e-4", "PYTHON": sys.executable,
    }  # fmt: skip
    launcher = ["bash", str(REPOSITORY / "finetune_qa.sh"), "--bf16", "true"]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True)
    command = done.stdout.split()
    assert done.returncode == 0 and command[1:4] == ["-m", "recipe.sweep", "--runs"]
    arguments, rest = parse_sweep(command[3:])
    assert arguments.runs == [str(run), "roberta-base", f"random:{run}"] and arguments.newest
    assert arguments.seeds == [1, 2] and arguments.learning_rates == [1e-4, 3e-4] and arguments.tasks == ["squad"]
    assert rest == ["--max_seq_length", "384", "--doc_stride", "128", "--dataset_name", str(squad),
                    "--num_train_epochs", "2", "--bf16", "true"]  # fmt: skip
    environment["RANDOM_INIT"] = ""
    alone = subprocess.run(launcher, env=environment, capture_output=True, text=True).stdout
    assert "random:" not in alone
    del environment["RUN"]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "found no RUN: name a folder" in done.stderr
