"""The scores of a sweep: glue.csv, glue.md, glue.png (or qa.*), model cards and W&B curve, rebuilt from the results at
any time.

The folder of a run with GLUE and SQuAD results gives one table of both. A missing score is shown as missing and never
averaged over (invariant 10).

    python -m recipe.report.scores runs/first
    python -m recipe.report.scores runs/first/glue
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import io
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from filelock import FileLock

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.compare.differences import verdict
from recipe.finetune.results import RESULTS, read_results
from recipe.finetune.suites import SUITES, suite_of
from recipe.report.card import push, push_listing, write_cards
from recipe.report.score_curves import draw
from recipe.report.score_frames import best_of_grid, cells_of, rows_of
from recipe.report.table import MISSING, score_table, table_of, text_of
from recipe.report.trackers import TRACKERS, log_curve
from recipe.system.errors import UserError
from recipe.system.files import write_atomically
from recipe.system.secrets import redact
from recipe.train.model_card import run_folder
from recipe.train.trackers import select_trackers

JOINED = "scores.md"  # in a run's folder: all suites in one table


@dataclass
class ScoresArguments:
    """Which results to show, and where to publish them."""

    folder: str = field(metadata={"help": "Folder of a sweep, or of a run with a folder glue or qa."})
    report_to: str = field(
        default="none",
        metadata={"help": f"none, or {', '.join(TRACKERS)}: add the curve of the scores to the pre-training's run."},
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Upload every checkpoint with its model card."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to push to, user/name; each checkpoint becomes a branch."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "With --push_to_hub: list the files to upload, and write and upload nothing."}
    )

    def __post_init__(self):
        if self.report_to not in ("none", *TRACKERS):
            raise UserError(f"found --report_to {self.report_to}, expected none or {' or '.join(TRACKERS)}")
        if self.push_to_hub and not self.hub_model_id:
            raise UserError("found --push_to_hub without --hub_model_id: pass user/name")
        if self.dry_run and not self.push_to_hub:
            raise UserError("found --dry_run without --push_to_hub: add --push_to_hub, or leave --dry_run out")


def rebuild(sweep: Path, tracker: str = "none", unfinished: Collection[str] = ()) -> str:
    """Writes everything that shows the results under `sweep`, and returns the table as text. Checkpoints that are
    `unfinished` are left out of `tracker`, whose history can only grow. Safe beside another rebuild."""
    with FileLock(sweep / ".scores.lock"):
        results = read_results(sweep, warn=lambda line: print(line, file=sys.stderr))
        if not results:
            return "no results yet"
        suite = suite_of(results[0]["task"]).name
        frame, apart = rows_of(results), verdict(sweep, SUITES[suite])
        printed = frame.drop(columns=[column for column in frame if column.startswith(("score:", "error:"))])
        table = redact(table_of(frame, apart))
        write_atomically(sweep / f"{suite}.csv", redact(printed.to_csv(index=False)).encode())
        write_atomically(sweep / f"{suite}.md", table.encode())
        best, _ = best_of_grid(frame)
        cells = cells_of(best)
        picture = io.BytesIO()
        draw(best, cells, picture)
        write_atomically(sweep / f"{suite}.png", picture.getvalue())
        _show_with_others(sweep, suite, results, frame)
        if tracker != "none":
            log_curve(sweep, best[~best["checkpoint"].isin(list(unfinished))], cells, tracker)
    return redact(text_of(frame, apart))


def line_of(sweep: Path, checkpoint: str) -> str:
    """The scores of one checkpoint in a line, its averages first; "" where it has none."""
    if not (results := read_results(sweep)):
        return ""
    rows = score_table(rows_of(results)).rows.set_index("checkpoint")
    if checkpoint not in rows.index:
        return ""
    scores = rows.loc[checkpoint].drop(["step", "tokens"])
    return f"{checkpoint}: {', '.join(f'{title} {value}' for title, value in scores.items() if value != MISSING)}"


def _show_with_others(sweep: Path, suite: str, results: list[dict], frame: pd.DataFrame) -> None:
    """Model cards, and scores.md in the run's folder, of this suite and of what the same runs have of others.

    A checkpoint is where this sweep found it, and what others say of other weights by that name is left out."""
    own = {record["checkpoint"]["name"]: record["checkpoint"] for record in results}
    parts = {suite: results}
    folders = (Path(path) for path in frame["path"])  # random: and hub ids are none
    homes = dict.fromkeys([sweep.resolve().parent, *(run_folder(folder) for folder in folders if folder.exists())])
    for other in SUITES.keys() - {suite}:
        beside = []
        for record in (record for home in homes for record in read_results(home / other)):
            theirs = record["checkpoint"]
            known = own.get(theirs["name"], theirs)
            if known["sha256"] == theirs["sha256"]:
                beside.append(record | {"checkpoint": known})
        if beside:
            parts[other] = beside
    parts = {name: parts[name] for name in SUITES if name in parts}
    together = rows_of([record for records in parts.values() for record in records])
    best, _ = best_of_grid(together)
    tables = {name: table_of(rows_of(records)) for name, records in parts.items()}
    write_cards(best[best["checkpoint"].isin(own)], cells_of(best), tables)
    if len(parts) > 1 and sweep.name in SUITES:
        write_atomically(sweep.parent / JOINED, redact(table_of(together)).encode())


def main() -> int:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("--"):
        argv = ["--folder", *argv]
    (args,) = parse((ScoresArguments,), argv, description=__doc__)
    folder = Path(args.folder).expanduser()
    beside = [folder / suite for suite in SUITES if read_results(folder / suite)]
    sweeps = beside if beside and not (folder / RESULTS).is_dir() else [folder]
    if not read_results(sweeps[0]):
        raise UserError(f"found no results under {folder}: expected the folder of a sweep, see finetune_glue.sh")
    if args.dry_run:
        print(push_listing(rows_of([r for sweep in sweeps for r in read_results(sweep)]), args.hub_model_id))
        return 0
    if args.report_to != "none":
        select_trackers(SimpleNamespace(report_to=[args.report_to]), print, folder)
    tables = [rebuild(sweep, tracker=args.report_to) for sweep in sweeps]
    print("\n".join(tables), end="")
    if args.push_to_hub:
        push(rows_of([r for sweep in sweeps for r in read_results(sweep)]), args.hub_model_id)
    return 0


if __name__ == "__main__":
    run_script(main)
