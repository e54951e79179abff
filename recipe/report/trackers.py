"""The scores of checkpoints in the tracker of their pre-training, beside its losses, at the steps of the checkpoints.

A tracker that fails costs a line in the log and never a result.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from recipe.finetune.suite import Suite
from recipe.report.score_frames import suites_of
from recipe.system.files import read_json, write_json
from recipe.train.model_card import run_folder
from recipe.train.run_record import read_record

STEP = "train/global_step"  # the axis on which transformers logs a pre-training in W&B


def log_curve(sweep: Path, frame: pd.DataFrame, cells: pd.DataFrame, tracker: str) -> None:
    """Continues the run of each pre-training in `tracker`, a key of TRACKERS, with <suite>/<column> and
    <suite>/average, in percent, at the steps of its checkpoints. What was logged before is left out: a history can only
    grow. The average is there only where no task is missing."""
    done = sweep / f".{tracker}-curve.json"
    logged = read_json(done) or {}
    about = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    about = about[about["step"] > 0].sort_values("step")
    runs: dict[Path, list[dict]] = {}
    for name, row in about.iterrows():
        point = _point(cells.loc[name], suites_of(frame)) | {STEP: int(row["step"])}
        if pd.notna(row["tokens_seen"]):
            point["tokens_seen"] = int(row["tokens_seen"])
        if logged.get(name) != point:
            runs.setdefault(run_folder(Path(row["path"])), []).append(point)
            logged[name] = point
    for folder, points in runs.items():
        with harmless(tracker, sweep):
            TRACKERS[tracker](sweep, folder, points)
            write_json(done, logged)


def _point(cells: pd.Series, suites: tuple[Suite, ...]) -> dict[str, float]:
    point = {}
    for suite in suites:
        means = {column: float(cells[column, "mean"]) for column in suite.columns if cells[column, "seeds"]}
        point |= {suite.wandb_key(column): value for column, value in means.items()}
        for average in suite.averages[:1]:
            if all(column in means for column in average.columns):
                point[f"{suite.name}/average"] = sum(means[c] for c in average.columns) / len(average.columns)
    return point


def _to_wandb(sweep: Path, folder: Path, points: list[dict]) -> None:
    from recipe.report.wandb_scores import continue_run  # importing wandb takes a second that others need not pay

    continue_run(sweep, folder, points)


def _to_tensorboard(sweep: Path, folder: Path, points: list[dict]) -> None:
    """A log folder beside that of the losses, runs/scores, which tensorboard shows with it."""
    from torch.utils.tensorboard import SummaryWriter

    home = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", folder / "runs")).expanduser()
    with SummaryWriter(log_dir=str(home / "scores")) as writer:
        for point, step in map(_without_step, points):
            for name, value in point.items():
                writer.add_scalar(name, value, step)


def _to_trackio(sweep: Path, folder: Path, points: list[dict]) -> None:
    import trackio  # pyright: ignore[reportMissingImports] (an optional package)

    settings = read_record(folder).get("settings", {})
    trackio.init(project=settings.get("project") or "huggingface", name=_run_name(folder), resume="allow")
    try:
        for point, step in map(_without_step, points):
            trackio.log(point | {STEP: step}, step=step)  # its own steps count calls: STEP is the common axis
    finally:
        trackio.finish()


def _to_mlflow(sweep: Path, folder: Path, points: list[dict]) -> None:
    """The newest run of the pre-training's name in its experiment, or a new one where there is none."""
    import mlflow  # pyright: ignore[reportMissingImports] (an optional package)

    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default"))
    name = _run_name(folder)
    found = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`mlflow.runName` = {json.dumps(name)}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    with mlflow.start_run(run_id=found[0].info.run_id) if found else mlflow.start_run(run_name=name):
        for point, step in map(_without_step, points):
            mlflow.log_metrics(point, step=step)


def _without_step(point: dict) -> tuple[dict[str, float], int]:
    return {name: value for name, value in point.items() if name != STEP}, point[STEP]


def _run_name(folder: Path) -> str:
    """The name under which the pre-training logged itself."""
    return read_record(folder).get("settings", {}).get("run_name") or folder.name


@contextmanager
def harmless(tracker: str, folder: str | Path) -> Iterator[None]:
    """What a tracker does wrong inside is printed and goes no further."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"warning: {tracker}: {reason}: the results are in {folder}", flush=True)


# Each is called with the sweep's folder, the run's folder and the points to log.
TRACKERS: dict[str, Callable[[Path, Path, list[dict]], None]] = {
    "wandb": _to_wandb,
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
    "mlflow": _to_mlflow,
}
