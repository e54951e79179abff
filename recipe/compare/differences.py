"""Two models, task by task: their scores, the difference with its 95 % interval, and whether chance may explain it.

    python -m recipe.compare runs/NAME/checkpoint-500 runs/NAME/checkpoint-4000
    python -m recipe.compare random:runs/NAME runs/NAME
    python -m recipe.compare runs/a runs/b --json

A and B have been scored by finetune_glue.sh, finetune_qa.sh or another sweep; a run stands for its last scored
checkpoint. Intervals are those of a paired bootstrap
over the dev examples and, where there are several, over the seeds.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from zlib import crc32

from recipe.cli.parser import option, parse
from recipe.compare.bootstrap import CONFIDENCE, RESAMPLES, Difference, difference, mean_difference
from recipe.finetune.outcomes import read_outcomes
from recipe.finetune.results import RESULTS, read_result
from recipe.finetune.suite import Suite
from recipe.finetune.suites import SUITES, suite_of, suites_with
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile
from recipe.train.model_card import run_folder

RANDOM = "random:"


@dataclass
class CompareArguments:
    """Where scores are looked for, and how the table is printed."""

    results_dir: str | None = option(
        None, "Folder of a sweep (RUN/glue); by default those in the runs of the two models."
    )
    json: bool = option(False, "Print the table as JSON.")


@dataclass(frozen=True)
class Scored:
    """A job's record, and the folder of what it kept."""

    record: dict
    kept: Path


@dataclass(frozen=True)
class Row:
    """One column of the score tables of the two models. `reason` says why there is no difference."""

    suite: Suite
    column: str
    found: Difference | None = None
    seeds: tuple[int, int] = (0, 0)
    reason: str = ""


def scored_in(sweep: Path) -> list[Scored]:
    """The records of a sweep's folder; damaged ones are left out."""
    found = []
    for file in sorted((sweep / RESULTS).rglob("*-seed*.json")):
        try:
            record = read_result(file)
        except DamagedFile:
            continue
        if record:
            found.append(Scored(record, file.with_suffix("")))
    return found


def jobs_of(model: str, scored: list[Scored]) -> list[Scored]:
    """The jobs of a model that is named by its path, or as tables do; a run's folder stands for its last checkpoint."""
    path = Path(model).expanduser()

    def belongs(job: Scored) -> bool:
        checkpoint = job.record["checkpoint"]
        if model in (checkpoint["name"], checkpoint["path"]):
            return True
        if model.startswith(RANDOM):
            named = Path(model.removeprefix(RANDOM)).expanduser()
            return checkpoint["name"] == f"{RANDOM}{named.name if named.is_dir() else named.stem}"
        return path.is_dir() and Path(checkpoint["path"]).expanduser().resolve() == path.resolve()

    if own := [job for job in scored if belongs(job)]:
        return own
    if not path.is_dir():
        return []
    inside = [
        job
        for job in scored
        if not job.record["checkpoint"]["path"].startswith(RANDOM)
        and run_folder(Path(job.record["checkpoint"]["path"]).expanduser()) == path.resolve()
    ]
    last = max((job.record["checkpoint"]["step"] or 0 for job in inside), default=None)
    return [job for job in inside if (job.record["checkpoint"]["step"] or 0) == last]


def rows_of(first: list[Scored], second: list[Scored]) -> Iterator[Row]:
    """A row for each column that at least one of two models has."""
    for suite in suites_with({job.record["task"]: job.record["headline"]["metric"] for job in (*first, *second)}):
        for title, column in suite.columns.items():
            sides = [
                _best_variant([job for job in jobs if job.record["task"] == column.task]) for jobs in (first, second)
            ]
            sides = [
                [job for job in jobs if column.metric in job.record["metrics"].get(column.split, {})] for jobs in sides
            ]
            if not any(sides):
                continue
            seeds = (len(sides[0]), len(sides[1]))
            if not all(sides):
                yield Row(suite, title, seeds=seeds, reason="scored for one of them alone")
                continue
            digests = {_examples_of(job, column.split) for jobs in sides for job in jobs}
            if len(digests) > 1:
                yield Row(suite, title, seeds=seeds, reason="scored on other examples")
                continue
            arrays = [[read_outcomes(job.kept, column.split, column.metric) for job in jobs] for jobs in sides]
            kept = [[part for part in parts if part is not None] for parts in arrays]
            if [len(parts) for parts in kept] != list(seeds):
                yield Row(suite, title, seeds=seeds, reason="no outcomes kept: score them again")
                continue
            draw = crc32(title.encode())  # other draws for each column: their examples are independent
            yield Row(suite, title, difference(column.metric, kept[0], kept[1], draw), seeds)


def _examples_of(job: Scored, split: str) -> tuple:
    size = job.record["examples"].get(split, {})
    return size.get("sha256"), size.get("used")


def _best_variant(jobs: list[Scored]) -> list[Scored]:
    """Of a grid, the jobs of the point whose mean score is best on dev, as the tables choose it."""
    variants: dict[str, list[Scored]] = {}
    for job in jobs:
        variants.setdefault(job.record.get("variant", ""), []).append(job)
    means = {name: sum(job.record["headline"]["value"] for job in of) / len(of) for name, of in variants.items()}
    return variants[max(means, key=means.__getitem__)] if means else []


def averages_of(rows: list[Row]) -> Iterator[tuple[str, Difference]]:
    """(title, difference) of each average whose columns are all compared."""
    for suite in SUITES.values():
        found = {row.column: row.found for row in rows if row.suite.name == suite.name and row.found}
        for average in suite.averages:
            if set(average.columns) <= found.keys():
                yield average.title, mean_difference([found[column] for column in average.columns])


def table_of(rows: list[Row], names: tuple[str, str]) -> str:
    """The table for a terminal of 80 columns."""
    lines = [f"A = {names[0]}", f"B = {names[1]}", "", f"{'':<22}{'A':>7}{'B':>7}{'B - A':>8}  {'95 % interval':<17}"]
    named = [(title, found, 100.0) for title, found in averages_of(rows)]
    for title, found, scale in named:
        lines.append(_line(title, found, scale))
    for row in rows:
        scale = 100.0 / row.suite.scale
        lines.append(_line(row.column, row.found, scale) if row.found else f"{row.column:<22}{row.reason:>39}")
    seeds = sorted({count for row in rows for count in row.seeds if count})
    trained = [row for row in rows if row.suite.trains and row.found]
    notes = [
        "Scores are percentages, means over seeds. Intervals are those of a paired bootstrap:",
        f"{RESAMPLES:,} resamples of the dev examples{' and of the seeds' * (max(seeds, default=1) > 1)}.",
    ]
    if any(min(row.seeds) == 1 for row in trained):
        notes.append("With one seed, the interval leaves out how much another seed would change the score.")
    if len(rows) > 4:
        notes.append(f"Of {len(rows)} rows without a difference, one in twenty is told apart by chance.")
    return "\n".join([*lines, "", fill(" ".join(notes), 80)])


def _line(title: str, found: Difference, scale: float) -> str:
    value, low, high = (scale * number for number in (found.value, found.low, found.high))
    verdict = "told apart" if found.told_apart else "not told apart"
    interval = f"[{low:+.1f}, {high:+.1f}]"
    return f"{title:<22}{scale * found.first:>7.1f}{scale * found.second:>7.1f}{value:>+8.1f}  {interval:<17}{verdict}"


def json_of(rows: list[Row], names: tuple[str, str]) -> str:
    """The same as JSON; scores are fractions, SQuAD's percentages as well divided by 100."""

    def entry(found: Difference, scale: float) -> dict:
        numbers = {"a": found.first, "b": found.second, "difference": found.value, "low": found.low, "high": found.high}
        more = {} if found.p_value is None else {"mcnemar_p": found.p_value}
        return {name: number / scale for name, number in numbers.items()} | {"told_apart": found.told_apart} | more

    columns = {
        row.column: entry(row.found, row.suite.scale) | {"seeds": row.seeds} if row.found else {"reason": row.reason}
        for row in rows
    }
    averages = {title: entry(found, 1.0) for title, found in averages_of(rows)}
    about = {"a": names[0], "b": names[1], "confidence": CONFIDENCE, "resamples": RESAMPLES}
    return json.dumps(about | {"averages": averages, "columns": columns}, indent=2)


def compare(first: str, second: str, results_dir: str | None = None) -> list[Row]:
    """The rows of two models. Raises UserError where one of them has no scores."""
    if results_dir:
        sweeps = [Path(results_dir).expanduser()]
    else:
        folders = [Path(model.removeprefix(RANDOM)).expanduser() for model in (first, second)]
        runs = dict.fromkeys(run_folder(folder) for folder in folders if folder.is_dir())
        sweeps = [run / suite for run in runs for suite in SUITES]
    scored = [job for sweep in sweeps for job in scored_in(sweep)]
    sides = []
    for model in (first, second):
        jobs = jobs_of(model, scored)
        if not jobs:
            known = list(dict.fromkeys(job.record["checkpoint"]["name"] for job in scored))
            shown = (
                f"there are scores of {', '.join(known[:6])}" if known else "score them first: bash finetune_glue.sh"
            )
            raise UserError(f"found no scores of {model}: {shown}")
        sides.append(jobs)
    return list(rows_of(*sides))


def verdict(sweep: Path, suite: Suite) -> str | None:
    """A sentence on whether the last checkpoint of a sweep is told apart from fresh weights or, without them, from the
    first checkpoint; None where there are no two models, or no outcomes."""
    scored = [job for job in scored_in(sweep) if suite_of(job.record["task"]).name == suite.name]
    steps = {job.record["checkpoint"]["name"]: job.record["checkpoint"]["step"] for job in scored}
    known = sorted((step, name) for name, step in steps.items() if step is not None)
    if len(known) < 2:
        return None
    (_, first), (_, last) = known[0], known[-1]
    sides = [[job for job in scored if job.record["checkpoint"]["name"] == name] for name in (first, last)]
    found = [row for row in rows_of(*sides) if row.found]
    parts = {
        word: ", ".join(row.column for row in found if row.found and row.found.told_apart == apart)
        for word, apart in (("told apart on", True), ("not told apart on", False))
    }
    said = "; ".join(f"{word} {columns}" for word, columns in parts.items() if columns)
    return f"{last} and {first}: {said} (95 % intervals of a paired bootstrap)." if found else None


def main() -> int:
    args, (first, second) = parse((CompareArguments,), description=__doc__, positional=("A", "B"))
    rows = compare(first, second, args.results_dir)
    print(json_of(rows, (first, second)) if args.json else table_of(rows, (first, second)))
    return 0
