"""Scores of fine-tuning jobs as data frames: one row per job, the best grid point, means over seeds."""

from pathlib import Path

import pandas as pd

from recipe.finetune.results import read_results
from recipe.finetune.suite import Suite
from recipe.finetune.suites import columns_of, suite_of, suites_with
from recipe.system.errors import UserError


def suites_of(frame: pd.DataFrame) -> tuple[Suite, ...]:
    """All suites, with the user's own tasks that `frame` has scores of."""
    return suites_with(dict(zip(frame["task"], frame["metric"], strict=True)))


def rows_of(results: list[dict]) -> pd.DataFrame:
    """One row a job: checkpoint, step, tokens, task, seed, settings and, in `score:<column>`, the columns of the table.

    `score` and the columns are between 0 and 1 (correlations -1 and 1); the metrics beside them are as their own
    definition gives them, SQuAD's in percent.
    """
    rows, suites = [], suites_with({result["task"]: result["headline"]["metric"] for result in results})
    columns = columns_of(suites)
    for result in results:
        checkpoint, sizes, settings = result["checkpoint"], result["examples"], result["settings"]
        suite = suite_of(result["task"])
        untrained = {"used": 0, "subset": False}
        row = {
            "checkpoint": checkpoint["name"],
            "step": checkpoint["step"],
            "tokens_seen": checkpoint["tokens_seen"],
            "task": result["task"],
            "seed": result["seed"],
            "metric": result["headline"]["metric"],
            "score": result["headline"]["value"] / suite.scale,
            "from_mnli": result["started_from_mnli"] is not None,
            "variant": result.get("variant", ""),
            "train_examples": sizes.get("train", untrained)["used"],
            "train_is_subset": sizes.get("train", untrained)["subset"],
            "dev_examples": sum(size["used"] for split, size in sizes.items() if split.startswith("validation")),
            "dev_is_subset": any(size["subset"] for split, size in sizes.items() if split.startswith("validation")),
            "learning_rate": settings["learning_rate"] if suite.trains else None,
            "batch_size": _batch_size(settings) if suite.trains else None,
            "epochs": settings["num_train_epochs"] if suite.trains else 0,
            "steps": settings["max_steps"] if suite.trains else 0,
            "seconds": result["seconds"],
            "path": checkpoint["path"],
            "weights_sha256": checkpoint["sha256"],
        }
        for split, metrics in result["metrics"].items():
            row |= {suite.csv_name(split, name): value for name, value in metrics.items()}
        for title, column in columns.items():
            if column.task == result["task"]:
                value = result["metrics"].get(column.split, {}).get(column.metric)
                row[f"score:{title}"] = None if value is None else value / suite.scale
                error = result["metrics"].get(column.split, {}).get(f"{column.metric}_stderr")
                row[f"error:{title}"] = None if error is None else error / suite.scale
        rows.append(row)
    frame = pd.DataFrame(rows)
    for title in columns:
        for part in (f"score:{title}", f"error:{title}"):
            if part not in frame:
                frame[part] = float("nan")
    return frame


def _batch_size(settings: dict) -> int:
    per_device, accumulation = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    return per_device * accumulation * settings["devices"]


def read_frame(folder: Path, suite: Suite) -> pd.DataFrame | None:
    """The rows of one suite's sweep, as rows_of gives them: of its jobs or, where somebody kept the table alone, of its
    csv file. None where there is neither. Raises UserError for a csv that isn't ours."""
    if results := [result for result in read_results(folder) if suite_of(result["task"]).name == suite.name]:
        return rows_of(results)
    file = folder / f"{suite.name}.csv"
    if not file.is_file():
        return None
    try:
        frame = pd.read_csv(file)
        frame["variant"] = frame["variant"].fillna("")
        numbers = ["step", "tokens_seen", "seed", "score"]
        frame[numbers] = frame[numbers].apply(pd.to_numeric)
        for title, column in columns_of(suites_of(frame)).items():
            owner = suite_of(column.task)
            for part, metric in (("score", column.metric), ("error", f"{column.metric}_stderr")):
                values = frame.get(owner.csv_name(column.split, metric), float("nan")) / owner.scale
                frame[f"{part}:{title}"] = pd.Series(values, frame.index).where(frame["task"] == column.task)
        frame[["checkpoint", "step", "tokens_seen", "seed", "score", "from_mnli", "train_is_subset", "dev_is_subset"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a table of python -m recipe.report.scores ({error}): move it away") from error
    return frame


def best_of_grid(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[str, str], tuple[str, int]]]:
    """Of each (checkpoint, task), the rows of the grid's point whose headline metric is best on dev, mean over seeds.

    Returns them and, for each that had a choice, (the point, how many there were). Points are compared over the seeds
    that all of them have, so that an unfinished one cannot win by a lucky seed; with none in common, over those with
    the most seeds.
    """
    kept, chosen = [], {}
    for (checkpoint, task), group in frame.groupby(["checkpoint", "task"], sort=False):
        variants = group.groupby("variant", sort=False)
        if variants.ngroups > 1:
            seeds = set.intersection(*(set(rows["seed"]) for _, rows in variants))
            most = variants["seed"].nunique()
            pool = (
                group[group["seed"].isin(seeds)]
                if seeds
                else group[group["variant"].isin(most[most == most.max()].index)]
            )
            best = pool.groupby("variant", sort=False)["score"].mean().idxmax()
            chosen[checkpoint, task] = (best, variants.ngroups)
            group = group[group["variant"] == best]
        kept.append(group)
    return pd.concat(kept, ignore_index=True), chosen


def cells_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Index: checkpoint, by step with baselines first. Columns: (column of the table, `mean`, `std`, `seeds`), in
    percent. A column without a result is NaN with 0 seeds. `std` is the spread over seeds; of one seed it is the
    standard error over the examples, NaN where the job gave none."""
    order = frame.drop_duplicates("checkpoint").sort_values(["step", "checkpoint"], na_position="first", kind="stable")
    grouped = frame.groupby("checkpoint")
    parts = {}
    for column in columns_of(suites_of(frame)):
        scores = grouped[f"score:{column}"]
        parts[column, "mean"] = scores.mean() * 100
        parts[column, "std"] = scores.std(ddof=1).fillna(grouped[f"error:{column}"].mean()) * 100
        parts[column, "seeds"] = scores.count()
    return pd.DataFrame(parts).loc[order["checkpoint"]]


def average(cells: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
    """The mean over `columns` for each checkpoint, NaN where one of them is missing."""
    return cells.loc[:, [(column, "mean") for column in columns]].mean(axis=1, skipna=False)


def present_columns(cells: pd.DataFrame, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `columns` that at least one checkpoint has."""
    return tuple(column for column in columns if cells[column, "seeds"].sum())
