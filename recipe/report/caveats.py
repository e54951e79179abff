"""What a reader should know before believing a run's numbers: what isn't there yet, and what makes some worth less."""

from itertools import pairwise
from pathlib import Path

import pandas as pd

from recipe.finetune.results import RESULTS
from recipe.finetune.suite import Suite
from recipe.model.checkpoints import checkpoints, step_of
from recipe.report.score_frames import best_of_grid, cells_of, present_columns
from recipe.report.table import score_table
from recipe.report.training_curves import rows_with
from recipe.train.schedules import UNLIMITED_STEPS

NAMED = 12  # missing cells called by name; the rest are counted
_PARTS = ("--max_train_samples", "--max_eval_samples")


def of_training(run: Path, log: pd.DataFrame, record: dict) -> list[str]:
    """Of a pre-training: its log (one row per line of log.jsonl) and its run.json, {} where there is none."""
    found = []
    meaning, train, evals = record.get("meaning", {}), rows_with(log, "loss"), rows_with(log, "eval_loss")
    if not record:
        found.append("There is no readable run.json: the settings of the run are not known.")
    if not len(train):
        found.append("Nothing of the training is logged yet.")
    last, planned = int(log["step"].max()) if len(log) else 0, meaning.get("max_steps")
    if meaning.get("max_hours"):
        ends = f" or {planned:,} steps" if planned != UNLIMITED_STEPS else ""
        if last < planned and not (run / "train_results.json").exists():
            found.append(f"The run is not finished: step {last:,}, planned {meaning['max_hours']:g} hours{ends}.")
    elif planned and last < planned:
        found.append(f"The run is not finished: step {last:,} of {planned:,}.")
    skipped = rows_with(log, "skipped_updates")
    if len(skipped) and skipped["skipped_updates"].iloc[-1]:
        count = skipped["skipped_updates"].iloc[-1]
        found.append(f"{count:.0f} updates were skipped, their gradient wasn't finite (since the last resume).")
    if not len(evals):
        found.append("There is no evaluation: only the training loss is known.")
    elif len(rows_with(evals, "eval_unigram_loss")):
        end = rows_with(evals, "eval_unigram_loss").iloc[-1]
        if end["eval_loss"] >= end["eval_unigram_loss"]:
            found.append(
                f"The eval loss, {end['eval_loss']:.3f}, is not below the unigram baseline, "
                f"{end['eval_unigram_loss']:.3f}: the model knows no more than how often each token occurs."
            )
    for flag, value in _flags(record.get("command", []), _PARTS).items():
        of = "training" if "train" in flag else "evaluation"
        found.append(f"{flag} {value}: only so many blocks of the {of} text were used.")
    changed = sorted({name for change in record.get("history", []) for name in change.get("changed", {})})
    if changed:
        found.append(f"Settings changed when the run was resumed: {', '.join(changed)}.")
    if str(record.get("git_commit")).endswith("-dirty"):
        found.append("The code had changes that are in no commit.")
    return found


def of_scores(run: Path, sweep: Path, suite: Suite, frame: pd.DataFrame) -> list[str]:
    """Of one suite's scores, one row per job in `frame`, from the folder `sweep`."""
    title = suite.title
    best, _ = best_of_grid(frame)
    cells = cells_of(best)
    shown = present_columns(cells, tuple(suite.columns))
    found = list(score_table(frame).caveats)
    missing = [f"{name} {column}" for name in cells.index for column in shown if not cells.at[name, (column, "seeds")]]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        found.append(f"{title} cells that are missing: {', '.join(missing[:NAMED])}{more}.")
    absent = [column for column in suite.columns if column not in shown]
    if suite.expected and absent:
        found.append(f"{title} tasks that no checkpoint has: {', '.join(absent)}.")
    steps = set(best["step"].dropna().astype(int))
    unscored = [folder.name for folder in checkpoints(run) if step_of(folder) not in steps]
    if unscored:
        found.append(f"Checkpoints without a {title} score: {', '.join(unscored)}.")
    seeds = pd.concat([cells[column, "seeds"] for column in shown])
    if suite.trains and (seeds == 1).any():
        found.append(f"Some {title} scores are of one seed: their spread is not known.")
    if seeds[seeds > 0].nunique() > 1:
        found.append(f"{title} scores are means over {seeds[seeds > 0].min():.0f} to {seeds.max():.0f} seeds.")
    failed = [
        f"{file.parent.relative_to(sweep / RESULTS)} {file.name.removesuffix('.error.txt')}"
        for file in sorted((sweep / RESULTS).rglob("*.error.txt"))
    ]
    if failed:
        found.append(f"{title} jobs that failed: {', '.join(failed)}.")
    return found


def _flags(command: list[str], wanted: tuple[str, ...]) -> dict[str, str]:
    """The values of flags in a command, given as `--flag value` or `--flag=value`."""
    words = [part for word in command for part in (word.split("=", 1) if word.startswith(wanted) else [word])]
    return {word: after for word, after in pairwise(words) if word in wanted}
