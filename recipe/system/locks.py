"""A file lock for work that one process does while others wait for the result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

SECONDS_BEFORE_MESSAGE = 2


@contextmanager
def exclusive_lock(lock_file: Path, doing: str) -> Iterator[None]:
    """Holds `lock_file`, which the system releases however the process ends.

    Waits without a limit; after 2 seconds it prints that another process is `doing` the work. The other ranks of a
    node wait without a word: the first one shows its progress.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=SECONDS_BEFORE_MESSAGE)
    except Timeout:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"another process {doing}: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
