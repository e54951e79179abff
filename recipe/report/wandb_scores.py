"""Scores in W&B: a run a job, grouped under its pre-training, and the pre-training's own run continued with the curve.

A tracker that fails costs a line in the log and never a result.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import wandb

from recipe.finetune.suites import SUITES, suite_of
from recipe.system.files import read_json, write_json
from recipe.system.secrets import redact_all
from recipe.train.model_card import run_folder
from recipe.train.run_record import read_record

STEP = "train/global_step"  # the axis on which transformers logs a pre-training
LOGGED = ".wandb-curve.json"  # what the curve already has: a history can only grow
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
    with _harmless(tracker["folder"]), _run(tracker["folder"], identity, **about) as run:
        for entry in history:
            values = {key: value for key, value in entry.items() if isinstance(value, int | float) and key != "step"}
            run.log(values, step=entry["step"])
        for split, metrics in record["metrics"].items():
            run.summary.update({f"{split}/{key}": value for key, value in metrics.items()})
        run.summary["headline"] = record["headline"]["value"]


def log_curve(sweep: Path, frame: pd.DataFrame, cells: pd.DataFrame) -> None:
    """Continues the W&B run of each pre-training with <suite>/<column> and <suite>/average, in percent, at the steps of
    its checkpoints; what was logged before is left out. The average is there only where no task is missing."""
    logged = read_json(sweep / LOGGED) or {}
    about = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    about = about[about["step"] > 0].sort_values("step")
    runs: dict[Path, list[dict]] = {}
    for name, row in about.iterrows():
        point = _point(cells.loc[name]) | {STEP: int(row["step"])}
        if pd.notna(row["tokens_seen"]):
            point["tokens_seen"] = int(row["tokens_seen"])
        if logged.get(name) != point:
            runs.setdefault(run_folder(Path(row["path"])), []).append(point)
            logged[name] = point
    for folder, points in runs.items():
        with _harmless(sweep), _run(sweep, pretraining_id(folder), group=folder.name, name=folder.name) as run:
            run.define_metric(STEP)
            for suite in SUITES:
                run.define_metric(f"{suite}/*", step_metric=STEP)
            for point in points:
                run.log(point)
            write_json(sweep / LOGGED, logged)


def pretraining_id(folder: Path) -> str:
    """The id of a pre-training's W&B run: WANDB_RUN_ID, or what its run.json says, or one made of its folder."""
    recorded = read_record(folder).get("wandb_run_id")
    return os.environ.get("WANDB_RUN_ID") or recorded or _identity(folder.resolve(), "pretraining")


def _point(cells: pd.Series) -> dict[str, float]:
    point = {}
    for suite in SUITES.values():
        means = {column: float(cells[column, "mean"]) for column in suite.columns if cells[column, "seeds"]}
        point |= {suite.wandb_key(column): value for column, value in means.items()}
        for average in suite.averages[:1]:
            if all(column in means for column in average.columns):
                point[f"{suite.name}/average"] = sum(means[c] for c in average.columns) / len(average.columns)
    return point


def _identity(*parts) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:12]


@contextmanager
def _harmless(folder: str | Path) -> Iterator[None]:
    """What a tracker does wrong inside is printed and goes no further."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"warning: W&B: {reason}: the results are in {folder}", flush=True)


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
