"""The scores of every suite in the model cards of checkpoints, and the upload of these to the hub."""

from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from recipe.finetune.suite import Suite
from recipe.report.score_frames import suites_of
from recipe.system.errors import UserError
from recipe.system.hub import require_hub_for_pushing
from recipe.train.model_card import CARD, Scores, card_of, may_overwrite, write_card

NOT_FOR_INFERENCE = ["optimizer*", "scheduler*", "rng_state*", "ema.safetensors", "manifest.json", "training_args.bin"]


def write_cards(frame: pd.DataFrame, cells: pd.DataFrame, tables: dict[str, str]) -> list[Path]:
    """Writes the card of each local checkpoint in `frame` (one row per job, `cells` its means, as in
    recipe.report.scores), and returns the files. `tables` has each suite's own table, whose notes say what its numbers
    are. A README.md that this module didn't write is left alone."""
    written = []
    notes = {
        suite: "\n".join(line for line in table.splitlines() if line.startswith("- "))
        for suite, table in tables.items()
    }
    for name, rows in frame.groupby("checkpoint", sort=False):
        folder = Path(rows["path"].iloc[0])
        file = folder / CARD
        if not (folder / "config.json").is_file() or not may_overwrite(file):
            continue
        if write_card(file, scores_card(name, rows, cells.loc[name], notes)):
            written.append(file)
    return written


def scores_card(name: str, rows: pd.DataFrame, cells: pd.Series, notes: dict[str, str]) -> str:
    """The text of a checkpoint's card with its scores."""
    suites = {suite.name: suite for suite in suites_of(rows)}
    present = [(suite, column) for suite in suites.values() for column in _present(suite, cells)]
    scores = Scores(
        title=name,
        tags=[suite.tag for suite, _ in present],
        results=[_result(suite, column, cells[column], rows) for suite, column in present],
        sections=[_section(suites[suite], cells, notes[suite]) for suite in notes],
    )
    return card_of(Path(rows["path"].iloc[0]), scores=scores)


def _present(suite: Suite, cells: pd.Series) -> list[str]:
    """The columns of a suite that a checkpoint has a score of."""
    return [column for column in suite.columns if cells[column, "seeds"]]


def _section(suite: Suite, cells: pd.Series, notes: str) -> str:
    """A suite's part of a card, empty where the checkpoint has no score of it."""
    present = _present(suite, cells)
    scores = [f"| {column} | {suite.metric_name(column)} | {_value(cells[column])} |" for column in present]
    table = "\n".join(["| task | metric | score |", "| --- | --- | --- |", *scores])
    return f"## {suite.title}\n\n{table}\n\n{notes}" if present else ""


def _result(suite: Suite, column: str, cell: pd.Series, rows: pd.DataFrame) -> EvalResult:
    about = suite.columns[column]
    task, of_task = suite.tasks[about.task], rows[rows["task"] == about.task]
    subset = bool(of_task["train_is_subset"].any() or of_task["dev_is_subset"].any())
    part = " (part of the examples)" if subset else ""
    title = suite.dataset_title(column)
    seeds = {"seeds": sorted(map(int, of_task["seed"].unique())), "unit": "percent, mean over seeds"}
    return EvalResult(
        task_type=suite.task_type,
        task_name=f"{title}, {'after fine-tuning' if suite.trains else 'zero-shot'}",
        dataset_type=task.hub_id,
        dataset_config=task.hub_config,
        dataset_name=title + part,
        dataset_split=about.split,
        metric_type=about.metric,
        metric_name=suite.metric_name(column),
        metric_value=round(float(cell["mean"]), 2),
        metric_args=seeds if suite.trains else {"unit": "percent"},
    )


def _value(cell: pd.Series) -> str:
    spread = "" if cell["seeds"] < 2 else f" ± {cell['std']:.1f} ({cell['seeds']:.0f} seeds)"
    return f"{cell['mean']:.1f}{spread}"


def _local_checkpoints(frame: pd.DataFrame) -> list[Path]:
    """The checkpoint folders in `frame`, each once; hub ids and random models have none."""
    folders = map(Path, dict.fromkeys(frame["path"]))
    return [folder for folder in folders if (folder / "config.json").is_file()]


def push_listing(frame: pd.DataFrame, hub_model_id: str) -> str:
    """What `push` would upload: each checkpoint's branch and files with their sizes in bytes, and the files that it
    leaves out. Reads the folders' entries only: it needs no network and writes nothing."""
    lines = []
    for folder in _local_checkpoints(frame):
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        kept = list(filter_repo_objects(sizes, ignore_patterns=NOT_FOR_INFERENCE + DEFAULT_IGNORE_PATTERNS))
        total = sum(sizes[name] for name in kept)
        lines.append(f"{folder} -> {hub_model_id}, branch {folder.name}: {len(kept)} files, {total:,} bytes")
        lines += [f"  {sizes[name]:>15,}  {name}" for name in kept]
        lines += [f"  {sizes[name]:>15,}  {name} (left out)" for name in sizes if name not in kept]
    return "\n".join(lines) or "no local checkpoint to push"


def push(frame: pd.DataFrame, hub_model_id: str) -> None:
    """Uploads each local checkpoint, without optimizer and generator states, as a branch of `hub_model_id`.

    Raises UserError without a way to the hub.
    """
    require_hub_for_pushing()
    api = HfApi()
    try:
        api.create_repo(hub_model_id, exist_ok=True)
        for folder in _local_checkpoints(frame):
            api.create_branch(hub_model_id, branch=folder.name, exist_ok=True)
            api.upload_folder(
                repo_id=hub_model_id, folder_path=folder, revision=folder.name, ignore_patterns=NOT_FOR_INFERENCE
            )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"cannot push to {hub_model_id}: {str(error).splitlines()[0]}: see hf auth login") from error
