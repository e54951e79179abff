"""The scores of a sweep: glue.csv, glue.md, glue.png (or qa.*), model cards and W&B curve, rebuilt from the results at
any time.

    python -m recipe.scores runs/first            GLUE and SQuAD of that run, in one table where it has both
    python -m recipe.scores runs/first/glue

Numbers say what they are (law 10): a missing cell is shown missing and never averaged over.
"""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from filelock import FileLock

from recipe.arguments import parse
from recipe.card import run_folder, write_cards
from recipe.columns import COLUMNS, METRIC_NAMES, TITLES, columns_of, suite_of, unit_of
from recipe.curve import draw
from recipe.errors import UserError, run_script
from recipe.files import write_whole
from recipe.glue import AVERAGES
from recipe.results import RESULTS, read_results
from recipe.secrets import redact

MISSING = "–"
JOINED = "scores.md"  # in a run's folder: all suites in one table


@dataclass
class ScoresArguments:
    """Which results."""

    folder: str = field(metadata={"help": "The folder of a sweep, or a run that has one called glue or qa."})
    report_to: str = field(default="none", metadata={"help": "wandb: continue the pre-training's curve."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload each checkpoint with its model card."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Where to, as user/name; a branch a checkpoint."})

    def __post_init__(self):
        if self.push_to_hub and not self.hub_model_id:
            raise UserError("found --push_to_hub without --hub_model_id: pass user/name")


def rows_of(results: list[dict]) -> pd.DataFrame:
    """One row a job: checkpoint, step, tokens, task, seed, settings and, in `score:<column>`, the columns of the table.

    `score` and the columns are between 0 and 1 (correlations -1 and 1); the metrics beside them are as their own
    definition gives them, SQuAD's in percent.
    """
    rows = []
    for result in results:
        checkpoint, sizes = result["checkpoint"], result["examples"]
        row = {
            "checkpoint": checkpoint["name"],
            "step": checkpoint["step"],
            "tokens_seen": checkpoint["tokens_seen"],
            "task": result["task"],
            "seed": result["seed"],
            "metric": result["headline"]["metric"],
            "score": result["headline"]["value"] / unit_of(result["task"]),
            "from_mnli": result["started_from_mnli"] is not None,
            "variant": result.get("variant", ""),
            "train_examples": sizes["train"]["used"],
            "train_is_subset": sizes["train"]["subset"],
            "dev_examples": sum(size["used"] for split, size in sizes.items() if split.startswith("validation")),
            "dev_is_subset": any(size["subset"] for split, size in sizes.items() if split.startswith("validation")),
            "learning_rate": result["settings"]["learning_rate"],
            "batch_size": result["settings"]["per_device_train_batch_size"]
            * result["settings"]["gradient_accumulation_steps"]
            * result["settings"]["devices"],
            "epochs": result["settings"]["num_train_epochs"],
            "steps": result["settings"]["max_steps"],
            "seconds": result["seconds"],
            "path": checkpoint["path"],
            "weights_sha256": checkpoint["sha256"],
        }
        for split, metrics in result["metrics"].items():
            row |= {_in_csv(name, split): value for name, value in metrics.items()}
        for column, (task, split, metric) in COLUMNS.items():
            if task == result["task"]:
                value = result["metrics"].get(split, {}).get(metric)
                row[f"score:{column}"] = None if value is None else value / unit_of(task)
        rows.append(row)
    frame = pd.DataFrame(rows)
    for column in COLUMNS:
        if f"score:{column}" not in frame:
            frame[f"score:{column}"] = float("nan")
    return frame


def _in_csv(metric: str, split: str) -> str:
    """What a split's metric is called in glue.csv: MNLI has two halves."""
    return f"{metric}_mm" if split.endswith("mismatched") else metric


def read_frame(folder: Path, suite: str) -> pd.DataFrame | None:
    """The rows of one suite's sweep, as rows_of gives them: of its jobs or, where somebody kept the table alone, of its
    csv file. None where there is neither. Raises UserError for a csv that isn't ours."""
    if results := [result for result in read_results(folder) if suite_of(result["task"]) == suite]:
        return rows_of(results)
    file = folder / f"{suite}.csv"
    if not file.is_file():
        return None
    try:
        frame = pd.read_csv(file)
        frame["variant"] = frame["variant"].fillna("")
        numbers = ["step", "tokens_seen", "seed", "score"]
        frame[numbers] = frame[numbers].apply(pd.to_numeric)
        for column, (task, split, metric) in COLUMNS.items():
            values = frame.get(_in_csv(metric, split), float("nan")) / unit_of(task)
            frame[f"score:{column}"] = pd.Series(values, frame.index).where(frame["task"] == task)
        frame[["checkpoint", "step", "tokens_seen", "seed", "score", "from_mnli", "train_is_subset", "dev_is_subset"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a table of python -m recipe.scores ({error}): move it away") from error
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
    percent. A column without a result is NaN with 0 seeds; the spread of one seed is NaN."""
    order = frame.drop_duplicates("checkpoint").sort_values(["step", "checkpoint"], na_position="first", kind="stable")
    grouped = frame.groupby("checkpoint")
    parts = {}
    for column in COLUMNS:
        scores = grouped[f"score:{column}"]
        parts[column, "mean"] = scores.mean() * 100
        parts[column, "std"] = scores.std(ddof=1) * 100
        parts[column, "seeds"] = scores.count()
    return pd.DataFrame(parts).loc[order["checkpoint"]]


def average(cells: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
    """The mean over `columns` for each checkpoint, NaN where one of them is missing."""
    return cells.loc[:, [(column, "mean") for column in columns]].mean(axis=1, skipna=False)


def present_columns(cells: pd.DataFrame, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `columns` that at least one checkpoint has."""
    return tuple(column for column in columns if cells[column, "seeds"].sum())


@dataclass(frozen=True)
class ScoreTable:
    """A table as it is shown: `rows` of text, one a checkpoint; `notes`, what every number is; `caveats`, what makes
    some of them worth less."""

    rows: pd.DataFrame
    notes: list[str]
    caveats: list[str]


def table_of(frame: pd.DataFrame) -> str:
    """glue.md, qa.md: the score table of `frame` in Markdown, and under it what every number is."""
    table = score_table(frame)
    return "\n".join([_markdown(table.rows), "", *(f"- {note}" for note in table.notes + table.caveats), ""])


def score_table(frame: pd.DataFrame) -> ScoreTable:
    """Rows checkpoints, columns tasks, mean ± standard deviation over seeds, both averages of GLUE."""
    frame, chosen = best_of_grid(frame)
    cells = cells_of(frame)
    shown = present_columns(cells, tuple(COLUMNS))
    partial = present_columns(cells, AVERAGES["ours"])
    averages = {"average": average(cells, AVERAGES["ours"]), "reference average": average(cells, AVERAGES["reference"])}
    complete = averages["average"].notna().any()
    if not present_columns(cells, tuple(columns_of("glue"))):
        averages, complete = {}, True
    if not complete and len(partial) > 1:
        averages = {f"mean of {len(partial)} tasks": average(cells, partial)} | averages
    steps = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    table = []
    for name in cells.index:
        row = {
            "checkpoint": name,
            "step": _count(steps.at[name, "step"]),
            "tokens": _count(steps.at[name, "tokens_seen"]),
        }
        row |= {
            title: MISSING if pd.isna(values[name]) else f"{values[name]:.1f}" for title, values in averages.items()
        }
        row |= {column: _cell(cells.loc[name, column]) for column in shown}
        table.append(row)
    return ScoreTable(pd.DataFrame(table), _notes(frame, cells, partial, complete), _caveats(frame, chosen))


def _cell(cell: pd.Series) -> str:
    if not cell["seeds"]:
        return MISSING
    if cell["seeds"] == 1:
        return f"{cell['mean']:.1f}"
    return f"{cell['mean']:.1f} ± {cell['std']:.1f} ({cell['seeds']:.0f})"


def _count(value) -> str:
    return MISSING if pd.isna(value) else f"{int(value):,}"


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table whose columns line up in plain text too."""
    widths = {name: max(len(name), *table[name].str.len()) for name in table}
    lines = [
        " | ".join(name.ljust(width) for name, width in widths.items()),
        " | ".join("-" * width for width in widths.values()),
        *(" | ".join(row[name].ljust(width) for name, width in widths.items()) for row in table.to_dict("records")),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _notes(frame: pd.DataFrame, cells: pd.DataFrame, partial: tuple[str, ...], complete: bool) -> list[str]:
    """What the numbers are, a sentence each; only what holds for this table."""
    notes = [
        "Scores are percentages on the dev files after the last step of fine-tuning, no step chosen by dev score; "
        f"mean ± sample standard deviation (number of seeds); {MISSING} is a missing result. Seeds: "
        f"{', '.join(map(str, sorted(frame['seed'].unique())))}.",
        "Metrics: " + ", ".join(_with_metric(column) for column in present_columns(cells, tuple(COLUMNS))) + ".",
    ]
    if present_columns(cells, tuple(columns_of("glue"))):
        ours, reference = AVERAGES["ours"], AVERAGES["reference"]
        notes += [
            f"average: mean of {len(ours)} columns, {', '.join(ours)} (GLUE without WNLI); given only where none is "
            "missing.",
            f"reference average: mean of {len(reference)} columns, {', '.join(reference)}, as in the reference's "
            "table, where CoLA stands apart; given only where none is missing.",
        ]
    if not complete and len(partial) > 1:
        notes.append(f"mean of {len(partial)} tasks: {', '.join(partial)} alone; it is no GLUE average.")
    return notes


def _caveats(frame: pd.DataFrame, chosen: dict) -> list[str]:
    """What makes scores of this table worth less than they look."""
    notes = []
    for kind, what in (("train", "training"), ("dev", "dev")):
        subset = frame[frame[f"{kind}_is_subset"]].drop_duplicates("task")
        if len(subset):
            parts = ", ".join(f"{row['task']} {row[f'{kind}_examples']:,}" for _, row in subset.iterrows())
            notes.append(f"Only part of the official {what} examples: {parts}. These are not comparable scores.")
    if frame["from_mnli"].any():
        tasks = ", ".join(sorted(frame[frame["from_mnli"]]["task"].unique()))
        notes.append(f"Started from the MNLI model of the same checkpoint and seed: {tasks}.")
    if chosen:
        points = ", ".join(f"{name} {task}: {point}" for (name, task), (point, _) in chosen.items())
        most = max(count for _, count in chosen.values())
        notes.append(f"Settings are the best on dev of a grid of {most}, so these scores flatter: {points}.")
    return notes


def _with_metric(column: str) -> str:
    name = METRIC_NAMES[COLUMNS[column][2]]
    return column if column.endswith(name) else f"{column} {name}"


def rebuild(sweep: Path, tracker: bool = False) -> str:
    """Writes everything that shows the results under `sweep`, and returns the table. Safe beside another rebuild."""
    with FileLock(sweep / ".scores.lock"):
        results = read_results(sweep, warn=lambda line: print(line, file=sys.stderr))
        if not results:
            return "no results yet"
        suite = suite_of(results[0]["task"])
        frame = rows_of(results)
        printed = frame.drop(columns=[column for column in frame if column.startswith("score:")])
        table = redact(table_of(frame))
        write_whole(sweep / f"{suite}.csv", redact(printed.to_csv(index=False)).encode())
        write_whole(sweep / f"{suite}.md", table.encode())
        best, _ = best_of_grid(frame)
        cells = cells_of(best)
        picture = io.BytesIO()
        draw(best, cells, picture)
        write_whole(sweep / f"{suite}.png", picture.getvalue())
        _show_with_others(sweep, suite, results, frame)
        if tracker:
            from recipe.glue_tracker import log_curve  # importing wandb takes a second that others need not pay

            log_curve(sweep, best, cells)
    return table


def _show_with_others(sweep: Path, suite: str, results: list[dict], frame: pd.DataFrame) -> None:
    """Model cards, and scores.md in the run's folder, of this suite and of what the same runs have of others.

    A checkpoint is where this sweep found it, and what others say of other weights by that name is left out."""
    own = {record["checkpoint"]["name"]: record["checkpoint"] for record in results}
    parts = {suite: results}
    folders = (Path(path) for path in frame["path"])  # random: and hub ids are none
    homes = dict.fromkeys([sweep.resolve().parent, *(run_folder(folder) for folder in folders if folder.exists())])
    for other in TITLES.keys() - {suite}:
        beside = []
        for record in (record for home in homes for record in read_results(home / other)):
            theirs = record["checkpoint"]
            known = own.get(theirs["name"], theirs)
            if known["sha256"] == theirs["sha256"]:
                beside.append(record | {"checkpoint": known})
        if beside:
            parts[other] = beside
    parts = {name: parts[name] for name in TITLES if name in parts}
    together = rows_of([record for records in parts.values() for record in records])
    best, _ = best_of_grid(together)
    tables = {name: table_of(rows_of(records)) for name, records in parts.items()}
    write_cards(best[best["checkpoint"].isin(own)], cells_of(best), tables)
    if len(parts) > 1 and sweep.name in TITLES:
        write_whole(sweep.parent / JOINED, redact(table_of(together)).encode())


def main() -> int:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("--"):
        argv = ["--folder", *argv]
    (args,) = parse((ScoresArguments,), argv, description=__doc__)
    folder = Path(args.folder).expanduser()
    beside = [folder / suite for suite in TITLES if read_results(folder / suite)]
    sweeps = beside if beside and not (folder / RESULTS).is_dir() else [folder]
    if not read_results(sweeps[0]):
        raise UserError(f"found no results under {folder}: expected the folder of a sweep, see finetune_glue.sh")
    tables = [rebuild(sweep, tracker=args.report_to == "wandb") for sweep in sweeps]
    print(tables[0] if len(tables) == 1 else (folder / JOINED).read_text(encoding="utf-8"))
    if args.push_to_hub:
        from recipe.card import push

        push(rows_of([r for sweep in sweeps for r in read_results(sweep)]), args.hub_model_id)
    return 0


if __name__ == "__main__":
    run_script(main)
