"""The folder of a run: one program at a time works in it, and one that stops before its first step leaves it as it
was."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recipe.model.checkpoints import STAGING
from recipe.system.errors import UserError
from recipe.system.files import remove

LOCK = ".lock"


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Keeps other pre-trainings out of `run` until this process ends, however it ends.

    Raises UserError where another one holds it, or where the folder cannot be written.
    """
    with undo_on_failure(run) as mine:
        lock_file = run / LOCK
        new = not lock_file.exists()
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_file)
            lock.acquire(timeout=0.1)
        except Timeout as error:
            raise UserError(f"another run is training in {run}: wait for it, or choose another OUTPUT_DIR") from error
        except OSError as error:
            raise UserError(f"cannot write to {run}: {error.strerror}: choose another OUTPUT_DIR") from error
        mine += [lock_file] * new
        try:
            remove(run / STAGING)  # what a killed run left behind, or whatever bears its name
            yield
        finally:
            lock.release()


@contextmanager
def undo_on_failure(run: Path) -> Iterator[list[Path]]:
    """Where the block ends by an exception, or a stop signal ends the program in it, the folders that were made for
    `run` go again. So do the files in the list that the block gets, if nothing but them was written into `run`."""
    new = [folder for folder in (run, *run.absolute().parents) if not folder.exists()]
    before = _files(run)
    mine: list[Path] = []

    def tidy() -> None:
        if _files(run) - before <= set(mine):
            for file in mine:
                file.unlink(missing_ok=True)
        for folder in new:
            with contextlib.suppress(OSError):  # there is something in it by now
                folder.rmdir()

    with _before_a_stop(tidy):
        try:
            yield mine
        except BaseException:
            tidy()
            raise


def _files(folder: Path) -> set[Path]:
    return set(folder.iterdir()) if folder.is_dir() else set()


@contextmanager
def _before_a_stop(action) -> Iterator[None]:
    """Has SIGTERM and SIGUSR1 call `action` before they end the program as they always do. Whoever sets other handlers
    in the block, as training does with its first step, keeps them."""

    def stop(number, frame):
        action()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    ours = [n for n in (signal.SIGTERM, signal.SIGUSR1) if signal.getsignal(n) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)
