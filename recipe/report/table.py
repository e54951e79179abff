"""The table of scores in Markdown, with notes on what every number is."""

from dataclasses import dataclass
from textwrap import fill

import pandas as pd

from recipe.finetune.suite import Suite
from recipe.finetune.suites import columns_of, suite_of
from recipe.report.score_frames import average, best_of_grid, cells_of, present_columns, suites_of

MISSING = "–"
CONSOLE_COLUMNS = 80


@dataclass(frozen=True)
class ScoreTable:
    """A table as it is shown: `rows` of text, one per checkpoint; `notes`, what every number is; `caveats`, what makes
    some of them worth less."""

    rows: pd.DataFrame
    notes: list[str]
    caveats: list[str]


def table_of(frame: pd.DataFrame, verdict: str | None = None) -> str:
    """glue.md, qa.md: the score table of `frame` in Markdown, and under it what every number is and the `verdict` on
    which are told apart."""
    table = score_table(frame, verdict)
    return "\n".join([_markdown(table.rows), "", *(f"- {note}" for note in table.notes + table.caveats), ""])


def text_of(frame: pd.DataFrame, verdict: str | None = None, columns: int = CONSOLE_COLUMNS) -> str:
    """The same table for a terminal: columns that don't fit beside each other come below, and notes fold by words."""
    table = score_table(frame, verdict)
    rows = table.rows.set_index("checkpoint").rename_axis(None)
    lines = [line.rstrip() for line in rows.to_string(line_width=columns).replace("\\\n", "\n").splitlines()]
    notes = [fill(f"- {note}", columns, subsequent_indent="  ") for note in table.notes + table.caveats]
    return "\n".join([*lines, "", *notes, ""])


def score_table(frame: pd.DataFrame, verdict: str | None = None) -> ScoreTable:
    """Rows checkpoints, columns the averages of each suite and its tasks, mean ± standard deviation over seeds."""
    frame, chosen = best_of_grid(frame)
    cells = cells_of(frame)
    suites = [suite for suite in suites_of(frame) if present_columns(cells, tuple(suite.columns))]
    several = sum(bool(suite.averages) for suite in suites) > 1
    averages = [mean for suite in suites for mean in _means_of(suite, cells, named=several)]
    shown = present_columns(cells, tuple(columns_of(suites)))
    steps = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    table = []
    for name in cells.index:
        row = {
            "checkpoint": name,
            "step": _count(steps.at[name, "step"]),
            "tokens": _count(steps.at[name, "tokens_seen"]),
        }
        row |= {mean.title: MISSING if pd.isna(mean.values[name]) else f"{mean.values[name]:.1f}" for mean in averages}
        row |= {column: _cell(cells.loc[name, column]) for column in shown}
        table.append(row)
    notes = [*_notes(frame, cells, suites, averages), *([verdict] if verdict else [])]
    return ScoreTable(pd.DataFrame(table), notes, _caveats(frame, chosen))


@dataclass(frozen=True)
class Mean:
    """A column of means over other columns, and the note that says over which; `partial` where it is no average."""

    title: str
    values: pd.Series
    note: str
    partial: bool = False


def _means_of(suite: Suite, cells: pd.DataFrame, named: bool) -> list[Mean]:
    """The suite's averages. Where no checkpoint has the first one, they follow the mean of those of its columns that
    there are, whose title has the suite's if it is to be `named`."""
    means = [
        Mean(
            whole.title,
            average(cells, whole.columns),
            f"{whole.title}: mean of {len(whole.columns)} columns, {', '.join(whole.columns)}{whole.remark}; given "
            "only where none is missing.",
        )
        for whole in suite.averages
    ]
    if means and means[0].values.isna().all():
        columns = present_columns(cells, suite.averages[0].columns)
        title = f"mean of {len(columns)} {f'{suite.title} ' if named else ''}tasks"
        note = f"{title}: {', '.join(columns)} alone; it is no {suite.title} average."
        means = [*([Mean(title, average(cells, columns), note, True)] if len(columns) > 1 else []), *means]
    return means


def _cell(cell: pd.Series) -> str:
    if not cell["seeds"]:
        return MISSING
    if cell["seeds"] == 1:
        return f"{cell['mean']:.1f}" + ("" if pd.isna(cell["std"]) else f" ± {cell['std']:.1f}")
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


def _notes(frame: pd.DataFrame, cells: pd.DataFrame, suites: list[Suite], averages: list[Mean]) -> list[str]:
    """What the numbers are, a sentence each; only what holds for this table."""
    notes = []
    for protocol in dict.fromkeys(suite.protocol for suite in suites):
        together = [suite for suite in suites if suite.protocol == protocol]
        names = {suite.name for suite in together}
        seeds = frame[[suite_of(task).name in names for task in frame["task"]]]["seed"].unique()
        trained = any(suite.trains for suite in together)
        spread = "mean ± sample standard deviation (number of seeds); " if trained else ""
        if not trained and any(cells[column, "std"].notna().any() for suite in together for column in suite.columns):
            spread = "score ± standard error over the pairs; "
        listed = f" Seeds: {', '.join(map(str, sorted(seeds)))}." if trained else ""
        which = "Scores" if len(together) == len(suites) else f"{' and '.join(s.title for s in together)} scores"
        notes.append(f"{which} are percentages {protocol}; {spread}{MISSING} is a missing result.{listed}")
    shown = [(suite, column) for suite in suites for column in present_columns(cells, tuple(suite.columns))]
    notes.append("Metrics: " + ", ".join(_with_metric(suite, column) for suite, column in shown) + ".")
    notes += [mean.note for mean in sorted(averages, key=lambda mean: mean.partial)]
    return notes + [note for suite in suites for note in suite.notes]


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


def _with_metric(suite: Suite, column: str) -> str:
    name = suite.metric_name(column)
    return column if column.endswith(name) else f"{column} {name}"
