"""Scores in W&B: a run a job, grouped under its pre-training, and the pre-training's own run continued with the curve.

A tracker that fails costs a line in the log and never a result.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb

from recipe.finetune.suites import SUITES, suite_of
from recipe.report.trackers import STEP, harmless
from recipe.system.secrets import redact_all
from recipe.train.run_record import read_record

INIT_SECONDS = 20.0


def log_job(tracker: dict, record: dict, history: list[dict]) -> None:
    """One run for a finished job: the losses of its fine-tuning, then its metrics and settings. `tracker` has the
    group (the pre-training run) and the folder for W&B's files."""
    suite = suite_of(record["task"])
    name = f"{record['checkpoint']['name']}/{record['task']}"
    name += f"/{record['seed']}" if suite.trains else ""
    name += f"/{record['variant']}" if record.get("variant") else ""
    config = {key: record[key] for key in ("task", "seed", "checkpoint", "settings", "examples", "started_from_mnli")}
    identity = _identity(tracker["folder"], name)
    about = {"group": tracker["group"], "job_type": suite.name, "name": name, "config": config}
    with harmless("W&B", tracker["folder"]), _run(tracker["folder"], identity, **about) as run:
        for entry in history:
            values = {key: value for key, value in entry.items() if isinstance(value, int | float) and key != "step"}
            run.log(values, step=entry["step"])
        for split, metrics in record["metrics"].items():
            run.summary.update({f"{split}/{key}": value for key, value in metrics.items()})
        run.summary["headline"] = record["headline"]["value"]


def continue_run(sweep: Path, folder: Path, points: list[dict]) -> None:
    """Continues the W&B run of the pre-training in `folder` with `points`, each with its STEP."""
    with _run(sweep, pretraining_id(folder), group=folder.name, name=folder.name) as run:
        run.define_metric(STEP)
        for suite in SUITES:
            run.define_metric(f"{suite}/*", step_metric=STEP)
        for point in points:
            run.log(point)


def pretraining_id(folder: Path) -> str:
    """The id of a pre-training's W&B run: WANDB_RUN_ID, or what its run.json says, or one made of its folder."""
    recorded = read_record(folder).get("wandb_run_id")
    return os.environ.get("WANDB_RUN_ID") or recorded or _identity(folder.resolve(), "pretraining")


def _identity(*parts) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:12]


@contextmanager
def _run(folder: str | Path, identity: str, **about) -> Iterator:
    """A W&B run of its own, finished at the end."""
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "encoder-recipe"),
        id=identity,
        resume="allow",
        dir=str(folder),
        reinit="create_new",
        settings=wandb.Settings(init_timeout=INIT_SECONDS, silent=True, console="off", x_disable_stats=True),
        **redact_all(about),
    )
    try:
        yield run
    finally:
        run.finish()
