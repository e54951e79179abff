"""A lock on work that one process does while the others that need it wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

SECONDS_BEFORE_SAYING_SO = 2


@contextmanager
def exclusive_lock(lock_file: Path, doing: str) -> Iterator[None]:
    """Holds `lock_file`, which falls with its process however it ends.

    Says once that it waits for another process that is `doing` this, then waits as long as it takes.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=SECONDS_BEFORE_SAYING_SO)
    except Timeout:
        print(f"another process {doing}: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
