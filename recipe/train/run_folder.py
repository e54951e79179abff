"""The folder of a run: only one process trains in it at a time, and a run that stops before its first step leaves
nothing behind."""

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
    """Holds the lock of `run` until the block ends or the process dies, so that no other run trains in it.

    Raises UserError if another run holds the lock, or if the folder can't be written.
    """
    with undo_on_failure(run) as created:
        lock_file = run / LOCK
        new = not lock_file.exists()
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_file)
            lock.acquire(timeout=0.1)
        except Timeout as error:
            raise UserError(
                f"another run is training in {run}: wait for it, or choose another RUN_NAME or OUTPUT_DIR"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to {run}: {error.strerror}: choose another RUN_NAME or OUTPUT_DIR"
            ) from error
        created += [lock_file] * new
        try:
            remove(run / STAGING)  # left by a killed run, or anything else of this name
            yield
        finally:
            lock.release()


@contextmanager
def undo_on_failure(run: Path) -> Iterator[list[Path]]:
    """If the block raises, or a stop signal ends the process in it, removes the folders that were created for `run`.

    Yields a list of files; those that the block adds are removed as well, if nothing else was written to `run`.
    """
    new = [folder for folder in (run, *run.absolute().parents) if not folder.exists()]
    before = _files(run)
    created: list[Path] = []

    def undo() -> None:
        if _files(run) - before <= set(created):
            for file in created:
                file.unlink(missing_ok=True)
        for folder in new:
            with contextlib.suppress(OSError):  # it isn't empty
                folder.rmdir()

    with _before_stop(undo):
        try:
            yield created
        except BaseException:
            undo()
            raise


def _files(folder: Path) -> set[Path]:
    return set(folder.iterdir()) if folder.is_dir() else set()


@contextmanager
def _before_stop(action) -> Iterator[None]:
    """Makes SIGTERM and SIGUSR1 call `action` before they end the process as by default. Handlers that the block sets
    itself, as training does, stay."""

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
