"""A run, or several beside each other, as one self-contained HTML page, which can be rebuilt at any time.

It shows curves of loss, learning rate and speed, the scores of the run's sweeps so far, what its checkpoints predict
for the blanks of some sentences, settings and commands, and caveats of the results. The page of an unfinished run says
what is missing. Of several runs it shows first in which settings they differ.

The page loads nothing from the network. Its only script shows the values under the pointer and zooms the curves; the
content security policy allows that one by its hash, and no other.

    python -m recipe.report runs/first            writes runs/first/report.html
    python -m recipe.report runs/first runs/second      writes runs/report.html
    python -m recipe.report results/glue-tiny --output_file glue-tiny.html
    python -m recipe.report runs/first --sentences "Returns the ___." \\
        "The river ___ through the valley."
"""

import base64
import hashlib
import io
import json
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.compare.differences import verdict
from recipe.evaluate.fill_in import BLANKS, Filled, display_token, fill_all, models_of
from recipe.finetune.suite import Suite
from recipe.finetune.suites import SUITES
from recipe.model.config import is_causal, load_config
from recipe.model.metrics import shown_metrics
from recipe.report.caveats import of_scores, of_training
from recipe.report.score_curves import draw
from recipe.report.score_frames import best_of_grid, cells_of, read_frame, suites_of
from recipe.report.table import MISSING, ScoreTable, score_table
from recipe.report.training_curves import pictures_of, pictures_of_several, rows_with
from recipe.system.errors import UserError
from recipe.system.files import read_json, write_atomically
from recipe.system.progress import track
from recipe.system.runtime import quiet_libraries
from recipe.system.secrets import redact, redact_all
from recipe.system.units import count
from recipe.train.run_record import PLAN, read_record
from recipe.train.schedules import UNLIMITED_STEPS

LOG = "log.jsonl"
REPORT = "report.html"
TEMPLATE = "report.html.jinja"
SCRIPT = "report.js"
SENTENCES = (
    "The capital of France is ___.",
    "She opened the door and saw a ___ in the garden.",
    "He was born in 1850 and ___ in 1912.",
    "If the list is empty, the function returns ___.",
)


@dataclass
class ReportArguments:
    """What the page of a run shows, and where it is written."""

    output_file: str | None = option(
        None, f"File to write; by default {REPORT} in the run folder, of several runs in the folder above the first."
    )
    sentences: list[str] = field(
        default_factory=lambda: list(SENTENCES),
        metadata={"help": "Sentences with blanks (___) for the checkpoints to fill in; by default four."},
    )
    top_k: int = option(3, "Guesses per blank.")
    max_checkpoints: int = option(6, "Number of checkpoints that fill in the blanks, spread over the run.")

    def __post_init__(self):
        for text in self.sentences:
            if not any(blank in text for blank in BLANKS):
                raise UserError(f"found no blank in {text!r}: write {BLANKS[0]} where one is")


@dataclass(frozen=True)
class Scores:
    """One suite's part of the page; `table` is None where there is no result yet. The two pictures are the same curve,
    wide for desks and narrow for phones."""

    title: str
    table: ScoreTable | None
    next: str
    wide: bytes = b""
    narrow: bytes = b""
    alt: str = ""
    hover: dict[str, list[dict]] = field(default_factory=dict)  # of both, as hover_of gives it


# ---- what there is


def read_log(file: Path) -> pd.DataFrame:
    """One row per line of log.jsonl; a line that a kill cut short, or that isn't a log's, is left out."""
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            lines.append({**entry, "step": int(entry["step"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    log = pd.DataFrame(lines, columns=None if lines else ["step"])
    numbers = [name for name in log if name != "step"]
    log[numbers] = log[numbers].apply(pd.to_numeric, errors="coerce")
    return log


def summary_of(log: pd.DataFrame, record: dict, plan: dict) -> dict[str, str]:
    """The figures at the top of the page: those that are known from log.jsonl, run.json and plan.json."""
    train, evals, meaning = rows_with(log, "loss"), rows_with(log, "eval_loss"), record.get("meaning", {})
    model, planned, found = meaning.get("model", {}), plan.get("planned", {}), {}
    if model.get("model_type"):
        found["model"] = str(model["model_type"])
        if {"num_hidden_layers", "hidden_size"} <= set(model):
            found["model"] += f", {model['num_hidden_layers']} layers of {model['hidden_size']}"
    if planned.get("parameters"):
        table = planned.get("embedding_parameters", 0)
        found["parameters"] = f"{count(planned['parameters'])}, of them {count(table)} embeddings"
    if planned.get("training_tokens"):
        found["data"] = f"{count(planned['training_tokens'])} training tokens"
    most = meaning.get("max_steps")
    if len(log):
        of = f" of {most:,}" if most and most != UNLIMITED_STEPS else ""
        found["steps"] = f"{log['step'].max():,}{of}"
    if len(seen := rows_with(train, "tokens_seen")):
        found["tokens seen"] = f"{seen['tokens_seen'].iloc[-1]:,.0f}"
        if planned.get("training_tokens"):
            found["tokens seen"] += f", {seen['tokens_seen'].iloc[-1] / planned['training_tokens']:.2g} epochs"
    if len(train):
        found["training loss"] = f"{train['loss'].iloc[-1]:.3f} nats"
    if len(evals):
        end = evals.iloc[-1]
        found["eval loss"] = f"{end['eval_loss']:.3f} nats"
        if pd.notna(end.get("eval_unigram_loss")):
            found["unigram baseline"] = f"{end['eval_unigram_loss']:.3f} nats"
        found |= shown_metrics(end)
    speed = rows_with(seen, "tokens_per_second")
    if len(speed):
        seconds = (speed["tokens_seen"].diff().fillna(speed["tokens_seen"]) / speed["tokens_per_second"]).sum()
        found["speed"] = f"{speed['tokens_per_second'].median():,.0f} tokens/s (median)"
        found["time in training"] = f"{seconds / 3600:.2f} hours" if seconds >= 600 else f"{seconds:.0f} seconds"
        processes = planned.get("processes")
        cost = [f"{planned['flops']:.1e} FLOP"] if planned.get("flops") else []
        if processes:
            cost.insert(0, f"{processes * seconds / 3600:.2f} device hours")
        if cost:
            found["cost"] = ", ".join(cost)
    return found


def scores_of(runs: list[Path], suite: Suite) -> tuple[Scores | None, list[str]]:
    """A suite's table and curve over all `runs`, with caveats; None where none has scores and none are expected."""
    command = f"RUN={shlex.quote(' '.join(map(str, runs)))} bash {suite.launcher}"
    frames, caveats, verdicts = [], [], []
    for run in runs:
        for sweep in (run / suite.name, run):
            frame = read_frame(sweep, suite)
            if frame is not None:
                frames.append(frame)
                verdicts += filter(None, [verdict(sweep, suite)])
                caveats += of_scores(run, sweep, suite, frame)
                break
    if not frames:
        if suite.expected or any((run / suite.name).is_dir() for run in runs):
            return Scores(suite.title, None, command), [f"There is no {suite.title} score yet: {command}"]
        return None, []
    frame = pd.concat(frames, ignore_index=True).drop_duplicates(["checkpoint", "task", "seed", "variant"])
    best, _ = best_of_grid(frame)
    cells = cells_of(best)
    title = next(found.title for found in suites_of(best) if found.name == suite.name)

    def picture(columns: int) -> tuple[bytes, list[dict]]:
        file = io.BytesIO()
        hover = draw(best, cells, file, format="svg", columns=columns)
        return file.getvalue(), hover

    alt = f"{title} scores of {len(cells)} models against pre-training steps; the table has the numbers."
    (wide, of_wide), (narrow, of_narrow) = picture(3), picture(1)
    hover = {"wide": of_wide, "narrow": of_narrow}
    table = score_table(frame, " ".join(verdicts))
    return Scores(title, table, command, wide, narrow, alt, hover), list(dict.fromkeys(caveats))


def samples_of(run: Path, args: ReportArguments) -> tuple[list[list[Filled]], list[str]]:
    """For each sentence, what the run's checkpoints put into it, by step; and why some or all of them don't."""
    if not (args.max_checkpoints and args.sentences):
        return [], ["No checkpoint was asked to fill blanks."]
    warnings: list[str] = []
    try:
        models = models_of([str(run)], lambda line: warnings.append(line.removeprefix("warning: ") + "."))
        causal = is_causal(load_config(models[-1]))
    except UserError as error:
        return [], [*warnings, f"No blanks are filled: {error}."]
    if causal:
        return [], [*warnings, "No blanks are filled: the model is a causal one, which sees no words after a blank."]
    if len(models) > args.max_checkpoints:
        spread = np.linspace(len(models) - 1, 0, num=args.max_checkpoints).round().astype(int)
        models = [models[place] for place in sorted(spread)]
    shown = track(models, "filling blanks", len(models), "checkpoints")
    by_model = [list(fill_all([name], args.sentences, args.top_k)) for name in shown]
    return [list(answers) for answers in zip(*by_model, strict=True)], warnings


def commands_of(runs: dict[str, Path], records: dict[str, dict]) -> dict[str, str]:
    """What to type to have all this again, by what it makes."""
    found = {}
    for name, run in runs.items():
        of = f" of {name}" if len(runs) > 1 else ""
        if command := records[name].get("command"):
            found[f"the pre-training{of}"] = command_line(command)
        for suite in SUITES.values():
            if command := read_record(run / suite.name).get("command"):
                found[f"the {suite.title} scores{of}"] = command_line(redact_all(command))
    return found | {"this page": shlex.join(["python", "-m", "recipe.report", *map(str, runs.values())])}


def command_line(words: list[str]) -> str:
    """A run's sys.argv as a shell command with one flag per line; a module of recipe/ is run by `python -m`."""
    parts = Path(words[0]).with_suffix("").parts
    module = (
        parts[max(place for place, part in enumerate(parts) if part == "recipe") :] if "recipe" in parts[:-1] else ()
    )
    lines = [["python", "-m", ".".join(module).removesuffix(".__main__")] if module else ["python", f"{parts[-1]}.py"]]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(map(shlex.join, lines))


# ---- the page


def settings_of(record: dict) -> dict[str, dict[str, str]]:
    """Tables of settings: what decides the run, its model, the rest, and where it ran."""
    meaning = record.get("meaning", {})
    decisive = {name: value for name, value in meaning.items() if name != "model"}
    where = {name: record.get(name) for name in ("python", "machine", "git_commit")} | record.get("packages", {})
    tables = {
        "What decides the run": decisive,
        "Model": meaning.get("model", {}),
        "Other settings": record.get("settings", {}),
        "Where it ran": {name: value for name, value in where.items() if value is not None},
    }
    return {
        title: {name: value if isinstance(value, str) else json.dumps(value) for name, value in table.items()}
        for title, table in tables.items()
        if table
    }


def differences(records: dict[str, dict]) -> dict[str, list[str]]:
    """The settings that decide a run in which `records` (run.json by the run's name) differ: one value per run. Of the
    models, whose families have settings of their own, those that all of them have."""
    flat = [
        {name: value for name, value in meaning.items() if name != "model"}
        | {f"model {name}": value for name, value in meaning.get("model", {}).items()}
        for meaning in (record.get("meaning", {}) for record in records.values())
    ]
    everywhere = set.intersection(*map(set, flat))
    names = dict.fromkeys(
        name for settings in flat for name in settings if name in everywhere or not name.startswith("model ")
    )
    table = {name: [_shown(settings.get(name)) for settings in flat] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _shown(value) -> str:
    if value is None or value == UNLIMITED_STEPS:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value)


def render(**content) -> str:
    """The page. Everything that goes in is text; only the pictures and the script made here are more."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": as_source, "guess": display_token}
    script = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(TEMPLATE).render(script=Markup(script), script_hash=allowed, **content)


def as_source(svg: bytes) -> str:
    """An SVG as the source of an <img>: there it can neither run a script nor fetch anything."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def report_of(runs: list[Path], args: ReportArguments) -> str:
    """The page of the runs in these folders. Raises UserError where one is no run, or where two have one name."""
    for run in runs:
        if not run.is_dir():
            raise UserError(f"found no folder {run}: expected that of a run, which has a {LOG}")
        if not (run / LOG).is_file():
            raise UserError(f"found no {LOG} in {run}: expected a run's folder, such as runs/NAME")
    by_name = {run.resolve().name: run for run in runs}
    if len(by_name) < len(runs):
        raise UserError(f"found runs of one name, {' and '.join(map(str, runs))}: expected a name for each")
    logs = {name: read_log(run / LOG) for name, run in by_name.items()}
    records = {name: redact_all(read_record(run)) for name, run in by_name.items()}
    several = len(runs) > 1
    caveats, samples, without = [], [], []
    if not several:
        samples, without = samples_of(runs[0], args)
    for name, run in by_name.items():
        of_run = of_training(run, logs[name], records[name])
        caveats += [f"{name}: {caveat}" for caveat in of_run] if several else of_run
    parts: list[Scores] = []
    for suite in SUITES.values():
        scores, more = scores_of(runs, suite)
        parts += [scores] if scores else []
        caveats += more
    summaries = {
        name: summary_of(logs[name], records[name], read_json(run / PLAN) or {}) for name, run in by_name.items()
    }
    return render(
        name=" and ".join(by_name),
        names=list(by_name),
        summaries=summaries,
        figures={
            what: [summary.get(what, MISSING) for summary in summaries.values()]
            for what in dict.fromkeys(what for summary in summaries.values() for what in summary)
        },
        differences=differences(records) if several else {},
        caveats=caveats + without,
        pictures=pictures_of(logs[next(iter(logs))]) if not several else pictures_of_several(logs),
        scores=parts,
        samples=samples,
        settings=settings_of(records[next(iter(records))]) if not several else {},
        commands=commands_of(by_name, records),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def main() -> None:
    args, (named,) = parse((ReportArguments,), description=__doc__, positional=("run...",))
    quiet_libraries()
    runs = [Path(name).expanduser() for name in named]
    folder = runs[0] if len(runs) == 1 else runs[0].parent
    file = Path(args.output_file).expanduser() if args.output_file else folder / REPORT
    if args.output_file and not file.parent.is_dir():
        raise UserError(f"found no folder {file.parent} for --output_file: make it first")
    page = redact(report_of(runs, args))
    try:
        write_atomically(file, page.encode())
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}: pass another --output_file") from error
    print(f"{file}: {len(page) / 1e6:.1f} MB, opens in any browser")


if __name__ == "__main__":
    run_script(main)
