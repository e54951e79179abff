"""A job of a sweep, (checkpoint, task, seed), and what a worker does with it: claim, fine-tune, write one JSON."""

import os
import shutil
import signal
import threading
import time
import traceback
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from recipe.cli.parser import parse
from recipe.finetune.results import read_result, result_file
from recipe.finetune.suites import suite_of
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, publish_folder, read_json, remove, write_atomically, write_json
from recipe.system.runtime import quiet_libraries
from recipe.system.secrets import redact, redact_console, redact_words
from recipe.train.resume import newest_resumable

DONE, FAILED, BUSY = "done", "failed", "busy"


@dataclass(frozen=True)
class Job:
    """One fine-tuning of a sweep. `argv` is the complete command line of its script for it."""

    checkpoint: str  # its name in tables
    sha256: str | None  # of its weights: a result of other weights doesn't count
    task: str
    seed: int
    argv: tuple[str, ...]
    folder: str  # of the result
    cost: float  # examples to train on: what the time left is reckoned from
    task_identity: str = ""  # of a task of the user's own: a result of another one doesn't count
    variant: str = ""  # the grid's point
    saves_model: bool = False  # other jobs start from its model
    needs: "Job | None" = None  # the MNLI job whose model it starts from
    tracker: dict | None = None  # where its W&B run belongs; None: no W&B

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.checkpoint, self.short_name, self.variant)))

    @property
    def short_name(self) -> str:
        return f"{self.task} seed {self.seed}" if suite_of(self.task).trains else self.task

    @property
    def result(self) -> Path:
        return result_file(Path(self.folder), self.task, self.seed)

    @property
    def error(self) -> Path:
        return self.result.with_suffix(".error.txt")

    @property
    def work(self) -> Path:
        """Where its checkpoints lie while it runs, if its script saves any."""
        return self.result.with_suffix(".work")

    @property
    def model(self) -> Path:
        return self.result.with_suffix(".model")

    def is_done(self) -> bool:
        """Whether its result is there, and of these very weights and this very task."""
        try:
            record = read_result(self.result)
        except DamagedFile:
            return False
        if record is None or (self.saves_model and not self.model.is_dir()):
            return False
        if record.get("task_identity", "") != self.task_identity:
            return False
        return self.sha256 is None or record["checkpoint"]["sha256"] == self.sha256

    def failed_since(self, moment: float) -> str | None:
        """The first line of its error, if it failed after `moment` (seconds of the epoch)."""
        try:
            if self.error.stat().st_mtime < moment:
                return None
            return self.error.read_text(errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: DONE, FAILED (message: why) or BUSY (another sweep is at it)."""

    job: Job
    state: str
    message: str = ""
    seconds: float = 0.0


def run_job(job: Job, since: float) -> Outcome:
    """Does `job` unless another worker does, did, or failed at it after `since`. Never raises for what goes wrong in
    it: the error's text is kept beside the place of the result.

    The claim is a lock that the system frees when its process ends, however it ends.
    """
    redact_console()  # a worker's log shows no secret of the command, wherever the worker is
    began = time.monotonic()
    job.result.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.result.with_name(f".{job.result.stem}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return Outcome(job, BUSY)
    try:
        if job.is_done():
            return Outcome(job, DONE, "done before")
        if message := job.failed_since(since):
            return Outcome(job, FAILED, message)
        if not job.result.is_file():  # a folder or a link that leads nowhere bears its name
            remove(job.result)
        try:
            record = evaluate_checkpoint(job)
        except UserError as error:
            return fail(job, str(error))
        except Exception:
            return fail(job, traceback.format_exc())
        job.error.unlink(missing_ok=True)
        headline = record["headline"]
        return Outcome(job, DONE, f"{headline['metric']} {headline['value']:.4f}", time.monotonic() - began)
    finally:
        lock.release()


def fail(job: Job, text: str) -> Outcome:
    """Keeps the text of an error where the result would be."""
    job.result.parent.mkdir(parents=True, exist_ok=True)
    text = redact(text.strip())
    write_atomically(job.error, f"{text}\n".encode())
    return Outcome(job, FAILED, text.splitlines()[-1])


def evaluate_checkpoint(job: Job) -> dict:
    """Fine-tunes the checkpoint if the suite does, evaluates it, writes the record, and returns it. A job that was
    killed continues from its newest checkpoint."""
    quiet_libraries()
    suite = suite_of(job.task)
    data, args = parse(suite.arguments(), list(job.argv))
    if job.needs:
        data = replace(data, **{suite.start_argument: str(job.needs.model)})
    args.output_dir = str(job.work)
    evaluation = suite.prepare(data, args)
    trainer, history = getattr(evaluation, "trainer", None), []
    if suite.trains and trainer is None:
        raise TypeError(f"{suite.title} is a suite that trains, but what its `prepare` returns has no trainer")
    if trainer:
        begun_at = resumable_checkpoint(job, trainer.model) if args.save_strategy != "no" else None
        trainer.train(resume_from_checkpoint=begun_at)
        history = trainer.state.log_history
    about = {"variant": job.variant, "command": redact_words([suite.script, *job.argv])}
    record = evaluation.record(evaluation.evaluate()) | about
    evaluation.write_predictions(job.result.with_suffix(""))
    if trainer and job.saves_model:
        partial = job.model.with_suffix(".partial")
        remove(partial)
        trainer.model.save_pretrained(partial)
        remove(job.model)
        publish_folder(partial, job.model)
    write_json(job.result, record)
    shutil.rmtree(job.work, ignore_errors=True)
    if job.tracker is not None:
        from recipe.report.wandb_scores import log_job  # importing wandb takes a second that others need not pay

        log_job(job.tracker, record, history)
    return record


def resumable_checkpoint(job: Job, model: PreTrainedModel) -> str | None:
    """The newest checkpoint of a job that was killed, if it was begun from these very weights and with this very
    command; what was begun otherwise is deleted."""
    mark = job.work / "job.json"
    about = {"argv": redact_words(job.argv), "sha256": job.sha256, "task_identity": job.task_identity}
    if read_json(mark) != about:
        remove(job.work)
        write_json(mark, about)
    newest = newest_resumable(job.work, model, zero=False, warn=print)
    return str(newest) if newest else None


def begin_worker(device: str | None, threads: int, log: str | None) -> None:
    """Prepares a worker process: its device, its share of the cores, its log; and it ends when its parent does."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the sweep answers it
    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
