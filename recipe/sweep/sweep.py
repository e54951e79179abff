"""GLUE or SQuAD scores of every checkpoint: one fine-tuning job per (checkpoint, task, seed), run once each; table and
curve are updated after each job. finetune_glue.sh and finetune_qa.sh start it.

Interrupt it at any time and run the same command again: finished jobs are not repeated. Several sweeps on one folder
share its jobs. Flags that are not listed here go to run_glue.py or run_qa.py: --max_train_samples, --bf16 and all other
TrainingArguments.

    python -m recipe.sweep --runs runs/first --tasks cola rte --seeds 1 2 3

    python -m recipe.sweep --runs runs/first random:configs/roberta_tiny.json \\
        --tasks squad --newest true --workers 2 --learning_rates 1e-4
"""

import os
import sys
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from recipe.cli.program import run_script
from recipe.finetune.arguments import RANDOM
from recipe.finetune.starting_point import damage_of
from recipe.finetune.suites import suite_of
from recipe.launch.world import clear_launcher_variables
from recipe.model.checkpoints import checkpoints, step_of
from recipe.report.scores import line_of, rebuild
from recipe.sweep.executors import ENGINES, end_workers, on_stop_signals
from recipe.sweep.jobs import BUSY, DONE, FAILED, Job, Outcome, fail
from recipe.sweep.plan import Planner, SweepArguments, candidates, is_awaited, parse_sweep, shared_settings
from recipe.system.errors import INTERRUPTED_EXIT_CODE, UserError
from recipe.system.progress import duration
from recipe.train.run_record import read_record, record_run
from recipe.train.schedules import time_is_up
from recipe.train.trackers import select_trackers

FAILED_EXIT_CODE = 1
POLL_SECONDS = 0.5
BUSY_SECONDS = 2.0  # how long a job that another sweep is at is left alone
REDRAW_SECONDS = 10.0  # between two tables and pictures: a core that draws is one less for jobs
WATCH_SECONDS = 5.0  # between two looks at a running pre-training
REMIND_SECONDS = 300.0  # between two lines that say what is waited for


class Board:
    """What is done, running and failed, and the time left: a live line on a terminal, and one line per job."""

    def __init__(self, workers: int):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task("starting")
        self.workers = workers
        self.total = self.finished = self.failed = 0
        self.cost_left = self.cost_done = self.seconds = 0.0

    def add(self, jobs: list[Job]) -> None:
        self.total += len(jobs)
        self.cost_left += sum(job.cost for job in jobs)

    def ended(self, outcome: Outcome) -> None:
        self.finished += 1
        self.failed += outcome.state == FAILED
        self.cost_left -= outcome.job.cost
        if outcome.seconds:
            self.cost_done += outcome.job.cost
            self.seconds += outcome.seconds
        if outcome.message != "done before":
            took = f"  ({outcome.seconds:.0f} s)" if outcome.seconds else ""
            word = "FAILED " if outcome.state == FAILED else ""
            self.say(f"[{self.finished}/{self.total}] {outcome.job.name}: {word}{outcome.message}{took}{self._left()}")

    def show(self, running: list[Job]) -> None:
        names = ", ".join(job.short_name for job in running)
        text = f"{len(running)} running, {self.failed} failed{self._left()}  {names}"
        self.progress.update(self.bar, total=self.total, completed=self.finished, description=text)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _left(self) -> str:
        if not self.cost_done or self.cost_left <= 0:
            return ""
        minutes = self.cost_left * self.seconds / self.cost_done / self.workers / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", under a minute left"


class Sweep:
    """The jobs on their way through an engine, each done once."""

    def __init__(self, engine, board: Board, since: float, after_checkpoint):
        self.engine, self.board, self.since, self.after_checkpoint = engine, board, since, after_checkpoint
        self.waiting: deque[tuple[float, Job]] = deque()  # (not before, job)
        self.known: set[Path] = set()
        self.open: dict[str, int] = {}  # jobs to go a checkpoint
        self.failures: list[Outcome] = []

    def add(self, jobs: list[Job]) -> None:
        """Jobs that weren't known before join the queue."""
        new = [job for job in jobs if job.result not in self.known]
        self.known |= {job.result for job in new}
        self.board.add(new)
        for job in new:
            self.open[job.checkpoint] = self.open.get(job.checkpoint, 0) + 1
        for job in new:
            if job.is_done():
                self._ended(Outcome(job, DONE, "done before"))
            else:
                self.waiting.append((0.0, job))

    def turn(self) -> bool:
        """Takes in what is finished, and gives work to who is free before it shows that. False when nothing is left."""
        ended = []
        for outcome in self.engine.wait(POLL_SECONDS) if self.engine.jobs else ():
            if outcome.state == BUSY:
                self.waiting.append((time.monotonic() + BUSY_SECONDS, outcome.job))
            else:
                ended.append(outcome)
        self._give_work()
        for outcome in ended:  # the next jobs run while the table is drawn
            self._ended(outcome)
        self.board.show(self.engine.jobs)
        if self.waiting and not self.engine.jobs:  # for another sweep
            time.sleep(POLL_SECONDS)
        return bool(self.waiting or self.engine.jobs)

    def _give_work(self) -> None:
        for _ in range(len(self.waiting)):
            if not self.engine.has_capacity():
                break
            not_before, job = self.waiting.popleft()
            if job.needs and not job.needs.is_done():
                if message := job.needs.failed_since(self.since):
                    start = suite_of(job.task).tasks[job.needs.task].title
                    self._ended(fail(job, f"the {start} job that it starts from failed: {message}"))
                else:
                    self.waiting.append((not_before, job))
            elif time.monotonic() < not_before:
                self.waiting.append((not_before, job))
            else:
                self.engine.submit(job, self.since)

    def _ended(self, outcome: Outcome) -> None:
        self.board.ended(outcome)
        if outcome.state == FAILED:
            self.failures.append(outcome)
        checkpoint = outcome.job.checkpoint
        self.open[checkpoint] -= 1
        if not self.open[checkpoint] and outcome.message != "done before":
            self.after_checkpoint(checkpoint)


def training_is_over(runs: list[str]) -> bool:
    """Whether every run folder has the checkpoint of its last step, or of the one at which its time was up."""
    if any(_has_not_begun(run) for run in runs):
        return False
    for run in (Path(run).expanduser() for run in runs if Path(run).expanduser().is_dir()):
        meaning = read_record(run).get("meaning", {}) if step_of(run) < 0 else {}
        if "max_steps" not in meaning or (run / f"checkpoint-{meaning['max_steps']}").is_dir():
            continue
        hours, found = meaning.get("max_hours"), checkpoints(run)
        if not (hours and found and time_is_up(found[-1], hours)):
            return False
    return True


def main() -> int:
    clear_launcher_variables()  # its workers are no ranks: sweeps that are started together share their jobs
    sweep, rest = parse_sweep(sys.argv[1:], description=__doc__ or "")
    began = time.time()
    on_stop_signals(_stop)
    say = Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print
    if sweep.report_to != "none":
        select_trackers(SimpleNamespace(report_to=[sweep.report_to]), say, sweep.folder)
    if sweep.watch:
        candidates(ready(sweep), sweep.newest)  # refuses what is wrong already, before hours of waiting
        wait_for_first_checkpoint(sweep.runs, say)
    models, damaged = candidates(ready(sweep), sweep.newest)
    if not models:
        folder, reason = next(iter(damaged.items()))
        raise UserError(f"{folder} is damaged or incomplete: {reason}: there is no other checkpoint to evaluate")
    planner = Planner(sweep, rest, models)
    jobs = [job for model in models for job in planner.jobs_of(model)]
    begin_record(sweep, rest)
    for sentence in planner.unused:
        say(f"warning: {sentence}")
    for folder, reason in damaged.items():
        say(f"warning: {folder} is damaged or incomplete ({reason}): not evaluated")

    def refresh() -> str:
        unfinished = {checkpoint for checkpoint, jobs in work.open.items() if jobs}
        return rebuild(sweep.folder, tracker=sweep.report_to, unfinished=unfinished)

    def after_checkpoint(checkpoint: str) -> None:
        nonlocal drawn
        more = bool(work.waiting or engine.jobs)  # after which this is called again; at the end all is drawn below
        if time.monotonic() >= drawn + REDRAW_SECONDS if more else not over:
            refresh()
            drawn = time.monotonic()
        if sweep.watch and (line := line_of(sweep.folder, checkpoint)):
            board.say(line)

    engine = ENGINES[sweep.engine](sweep.folder / "logs", sweep.workers)
    board = Board(engine.width)
    work = Sweep(engine, board, began, after_checkpoint)
    reminder = Reminder(board.say)
    over, next_look, drawn = not sweep.watch, 0.0, -REDRAW_SECONDS
    with board.progress:
        work.add(jobs)
        while work.turn() or not over:
            if not over and time.monotonic() >= next_look:
                over = training_is_over(sweep.runs)  # asked before the look: nothing can come after it
                for model in candidates(ready(sweep), sweep.newest)[0]:
                    if model.name not in work.open:
                        work.add(planner.jobs_of(model))
                next_look = time.monotonic() + WATCH_SECONDS
            if engine.jobs or work.waiting:
                reminder.reset()
            elif not over:
                reminder.waiting_for(f"the next checkpoint in {', '.join(sweep.runs)}")
                time.sleep(POLL_SECONDS)
    engine.close()
    print(refresh())
    for outcome in work.failures:
        say(f"failed: {outcome.job.name}: {outcome.message}  (all of it: {outcome.job.error})")
    return FAILED_EXIT_CODE if work.failures or (damaged and not sweep.watch) else 0


def begin_record(sweep: SweepArguments, rest: list[str]) -> None:
    """Writes the settings that the folder's numbers share, or checks them against those it was begun with."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(sweep.folder / ".record.lock"):
            record_run(sweep.folder, shared_settings(sweep, rest), {"runs": sweep.runs}, sweep.allow_changed)
    except OSError as error:
        raise UserError(f"cannot write to {sweep.folder}: {error.strerror}: choose another OUTPUT_DIR") from error


class Reminder:
    """Says what is waited for, once and then every REMIND_SECONDS."""

    def __init__(self, say):
        self.say = say
        self.reset()

    def reset(self) -> None:
        """What is waited for has come."""
        self.began, self.last = time.monotonic(), None

    def waiting_for(self, what: str) -> None:
        now = time.monotonic()
        if self.last is None:
            self.began = now
        elif now < self.last + REMIND_SECONDS:
            return
        since = "" if self.last is None else f" (for {duration(now - self.began)})"
        self.say(f"waiting for {what}{since}; Ctrl-C ends it")
        self.last = now


def ready(sweep: SweepArguments) -> list[str]:
    """The runs that can be evaluated: while watching, without folders that have no complete checkpoint yet."""
    return [run for run in sweep.runs if _is_ready(run)] if sweep.watch else sweep.runs


def _is_ready(run: str) -> bool:
    folder = Path(run).expanduser()
    if run.startswith(RANDOM) or step_of(folder) >= 0 or (folder / "config.json").exists():
        return True
    if folder.is_dir():
        return any(damage_of(step) is None for step in checkpoints(folder))
    return not is_awaited(run)


def _has_not_begun(run: str) -> bool:
    """Whether it is a run's folder that doesn't exist or has no checkpoint yet, not even a damaged one."""
    return not _is_ready(run) and not checkpoints(Path(run).expanduser())


def wait_for_first_checkpoint(runs: list[str], say) -> None:
    """Until one of `runs` that is being trained, or is yet to be begun, has a complete checkpoint."""
    reminder = Reminder(say)
    while not any(_is_ready(run) for run in runs if not run.startswith(RANDOM)):
        folders = [run for run in runs if not run.startswith(RANDOM)]
        there = [folder for folder in folders if Path(folder).expanduser().is_dir()]
        if there:
            reminder.waiting_for(f"the first checkpoint in {', '.join(there)}")
        else:
            reminder.waiting_for(f"{' or '.join(folders)}, a folder that pretrain.sh makes before step 1")
        time.sleep(WATCH_SECONDS)


def _stop(number, frame):
    # Workers end with their parent; the system frees their claims; what they had begun is not there.
    print("\nstopped: what is done stays done; run the same command again to continue", file=sys.stderr, flush=True)
    end_workers()
    os._exit(INTERRUPTED_EXIT_CODE)


if __name__ == "__main__":
    run_script(main)
