"""The table of scores in Markdown, with notes on what every number is."""

from dataclasses import dataclass

import pandas as pd

from recipe.finetune.columns import COLUMNS, METRIC_NAMES, columns_of
from recipe.finetune.glue.tasks import AVERAGES
from recipe.report.score_frames import average, best_of_grid, cells_of, present_columns

MISSING = "–"


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
