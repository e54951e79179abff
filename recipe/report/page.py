"""A run as one self-contained HTML page, report.html, which can be rebuilt at any time.

It shows curves of loss, learning rate and speed, the scores of the run's sweeps so far, what its checkpoints predict
for the blanks of some sentences, settings and commands, and caveats of the results. The page of an unfinished run says
what is missing. It loads nothing from the network and runs no script.

    python -m recipe.report runs/first            writes runs/first/report.html
    python -m recipe.report results/glue-tiny --output_file glue-tiny.html
    python -m recipe.report runs/first --sentences "Returns the ___." \\
        "The river ___ through the valley."
"""

import base64
import io
import json
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.evaluate.fill_in import BLANKS, Filled, display_token, fill_all, models_of
from recipe.finetune.suite import Suite
from recipe.finetune.suites import SUITES
from recipe.model.config import is_causal, load_config
from recipe.model.metrics import shown_metrics
from recipe.report.caveats import of_scores, of_training
from recipe.report.score_curves import draw
from recipe.report.score_frames import best_of_grid, cells_of, read_frame
from recipe.report.table import ScoreTable, score_table
from recipe.report.training_curves import Picture, pictures_of, rows_with
from recipe.system.errors import UserError
from recipe.system.files import write_atomically
from recipe.system.progress import track
from recipe.system.runtime import quiet_libraries
from recipe.system.secrets import redact, redact_all
from recipe.train.run_record import read_record
from recipe.train.schedules import UNLIMITED_STEPS

LOG = "log.jsonl"
REPORT = "report.html"
TEMPLATE = "report.html.jinja"
SENTENCES = (
    "The capital of France is ___.",
    "She opened the door and saw a ___ in the garden.",
    "He was born in 1850 and ___ in 1912.",
    "If the list is empty, the function returns ___.",
)


@dataclass
class ReportArguments:
    """What the page of a run shows, and where it is written."""

    output_file: str | None = option(None, f"File to write; by default {REPORT} in the run folder.")
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


def summary_of(log: pd.DataFrame, record: dict) -> dict[str, str]:
    """The figures at the top of the page: those that are known."""
    train, evals, meaning = rows_with(log, "loss"), rows_with(log, "eval_loss"), record.get("meaning", {})
    model, found = meaning.get("model", {}), {}
    if model.get("model_type"):
        found["model"] = str(model["model_type"])
        if {"num_hidden_layers", "hidden_size"} <= set(model):
            found["model"] += f", {model['num_hidden_layers']} layers of {model['hidden_size']}"
    planned = meaning.get("max_steps")
    if len(log):
        of = f" of {planned:,}" if planned and planned != UNLIMITED_STEPS else ""
        found["steps"] = f"{log['step'].max():,}{of}"
    if len(seen := rows_with(train, "tokens_seen")):
        found["tokens"] = f"{seen['tokens_seen'].iloc[-1]:,.0f}"
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
    return found


def scores_of(run: Path, suite: Suite) -> tuple[Scores | None, list[str]]:
    """A suite's table and curve, and their caveats; None where it has no scores and none are expected."""
    command = f"RUN={shlex.quote(str(run))} bash {suite.launcher}"
    for sweep in (run / suite.name, run):
        frame = read_frame(sweep, suite)
        if frame is not None:
            break
    else:
        if suite.expected or (run / suite.name).is_dir():
            return Scores(suite.title, None, command), [f"There is no {suite.title} score yet: {command}"]
        return None, []
    best, _ = best_of_grid(frame)
    cells = cells_of(best)

    def picture(columns: int) -> bytes:
        file = io.BytesIO()
        draw(best, cells, file, format="svg", columns=columns)
        return file.getvalue()

    alt = f"{suite.title} scores of {len(cells)} models against pre-training steps; the table has the numbers."
    scores = Scores(suite.title, score_table(frame), command, picture(3), picture(1), alt)
    return scores, of_scores(run, sweep, suite, frame)


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


def commands_of(run: Path, record: dict) -> dict[str, str]:
    """What to type to have all this again, by what it makes."""
    found = {"the pre-training": command_line(record["command"])} if record.get("command") else {}
    for suite in SUITES.values():
        if command := read_record(run / suite.name).get("command"):
            found[f"the {suite.title} scores"] = command_line(redact_all(command))
    return found | {"this page": shlex.join(["python", "-m", "recipe.report", str(run)])}


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


def render(**content) -> str:
    """The page. Everything that goes in is text; only pictures made here are more."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": as_source, "guess": display_token}
    return environment.get_template(TEMPLATE).render(**content)


def as_source(svg: bytes) -> str:
    """An SVG as the source of an <img>: there it can neither run a script nor fetch anything."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def report_of(run: Path, args: ReportArguments) -> str:
    """The page of the run in the folder `run`. Raises UserError where there is no run."""
    if not run.is_dir():
        raise UserError(f"found no folder {run}: expected that of a run, which has a {LOG}")
    if not (run / LOG).is_file():
        raise UserError(f"found no {LOG} in {run}: expected a run's folder, such as runs/NAME")
    log, record = read_log(run / LOG), redact_all(read_record(run))
    samples, without = samples_of(run, args)
    caveats = of_training(run, log, record)
    parts: list[Scores] = []
    for suite in SUITES.values():
        scores, more = scores_of(run, suite)
        parts += [scores] if scores else []
        caveats += more
    pictures: list[Picture] = pictures_of(log)
    return render(
        name=run.resolve().name,
        summary=summary_of(log, record),
        caveats=caveats + without,
        pictures=pictures,
        scores=parts,
        samples=samples,
        settings=settings_of(record),
        commands=commands_of(run, record),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def main() -> None:
    args, (named,) = parse((ReportArguments,), description=__doc__, positional=("run",))
    quiet_libraries()
    run = Path(named).expanduser()
    file = Path(args.output_file).expanduser() if args.output_file else run / REPORT
    if args.output_file and not file.parent.is_dir():
        raise UserError(f"found no folder {file.parent} for --output_file: make it first")
    page = redact(report_of(run, args))
    try:
        write_atomically(file, page.encode())
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}: pass another --output_file") from error
    print(f"{file}: {len(page) / 1e6:.1f} MB, opens in any browser")


if __name__ == "__main__":
    run_script(main)
