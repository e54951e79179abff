"""recipe.report.trackers: a pre-training's losses and speed and the scores of its checkpoints, read back from what each
tracker keeps. Needs the trackers: pip install tensorboard trackio mlflow."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys

import pytest
from toy import REPOSITORY, pretrain_command
from toy_scores import history_of, read_wandb

STEPS = [2, 4]
LOSS, SPEED, SCORE = "train/loss", "train/tokens_per_second", "glue/rte"


def read_back_wandb(folder):
    rows = [row for file in folder.rglob("*.wandb") for row in history_of(read_wandb(file))]
    return {
        name: {int(row["train/global_step"]): row[name] for row in rows if name in row and "train/global_step" in row}
        for name in (LOSS, SPEED, SCORE)
    }


def read_back_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for events in (folder / "run" / "runs").rglob("events.*"):
        log = EventAccumulator(str(events)).Reload()
        for name in log.Tags()["scalars"]:
            found.setdefault(name, {}).update({event.step: event.value for event in log.Scalars(name)})
    return found


def read_back_trackio(folder):
    """Trackio's own steps count its calls; the pre-training's step is beside each value."""
    database = sqlite3.connect(folder / "trackio" / "huggingface.db")
    found = {LOSS: {}, SPEED: {}, SCORE: {}}
    for name, step, metrics in database.execute("select run_name, step, metrics from metrics"):
        assert name == "toy"
        point = json.loads(metrics)
        for metric in found.keys() & point.keys():
            found[metric][point.get("train/global_step", step)] = point[metric]
    return found


def read_back_mlflow(folder):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs(["0"])
    names = {LOSS: "loss", SPEED: "tokens_per_second", SCORE: SCORE}
    return {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
        for name, key in names.items()
    }


def environment_of(folder):
    return {
        "WANDB_MODE": "offline", "WANDB_DIR": str(folder), "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "TRACKIO_LOCAL_ONLY": "1",
    } | {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))}  # fmt: skip


READ_BACK = {
    "wandb": read_back_wandb,
    "tensorboard": read_back_tensorboard,
    "trackio": read_back_trackio,
    "mlflow": read_back_mlflow,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tracker", READ_BACK)
def test_a_tracker_holds_losses_speed_and_scores(tracker, tmp_path):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed: pip install {tracker}")
    glue = REPOSITORY.parent / "shared" / "data" / "glue"
    if not glue.is_dir():
        pytest.skip("there are no GLUE files in ../shared/data")
    command, settings = pretrain_command(tmp_path, "run", MAX_STEPS=4, WARMUP_STEPS=1, SAVE_STEPS=2, EVAL_STEPS=2,
                                         NPROC_PER_NODE=1, REPORT_TO=tracker, WANDB_NAME="toy")  # fmt: skip
    settings = settings | environment_of(tmp_path) | {"PYTHON": sys.executable}
    trained = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert trained.returncode == 0 and "failed" not in trained.stdout, trained.stdout + trained.stderr
    scored = subprocess.run(
        ["bash", str(REPOSITORY / "finetune_glue.sh"), "--max_train_samples", "32", "--max_eval_samples", "32",
         "--max_seq_length", "32"],
        env=environment_of(tmp_path) | {
            "PYTHON": sys.executable, "RUN": str(tmp_path / "run"), "TASKS": "rte", "EPOCHS": "1", "GLUE_DATA": str(glue),
            "REPORT_TO": tracker,
        }, capture_output=True, text=True,
    )  # fmt: skip
    assert scored.returncode == 0 and "warning" not in scored.stdout, scored.stdout + scored.stderr
    found = READ_BACK[tracker](tmp_path)
    assert set(STEPS) <= set(found[LOSS]) and all(0 < value < 10 for value in found[LOSS].values())
    assert found[SPEED] and all(value > 0 for value in found[SPEED].values())
    assert sorted(found[SCORE]) == STEPS and all(0 <= value <= 100 for value in found[SCORE].values())


@pytest.mark.parametrize("script", ["pretrain.sh", "finetune_glue.sh"])
def test_a_missing_package_is_one_line_before_anything_runs(script, tmp_path):
    if importlib.util.find_spec("neptune") or importlib.util.find_spec("trackio"):
        pytest.skip("this environment has the package")
    settings = environment_of(tmp_path) | {
        "PYTHON": sys.executable, "REPORT_TO": "trackio", "RUN": "random:configs/roberta_tiny.json",
        "OUTPUT_DIR": str(tmp_path / "out"), "NPROC_PER_NODE": "1", "PREPARED_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    done = subprocess.run(["bash", str(REPOSITORY / script)], env=settings, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode == 2 and len(errors) == 1 and not list(tmp_path.iterdir())
    assert "--report_to trackio: the package is not installed: pip install trackio" in errors[0]
