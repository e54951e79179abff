"""The process from which a sweep's workers are forked. It imports their code once, for all of them, while the sweep
still imports its own and reads its data."""

import contextlib
import multiprocessing
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from recipe.system.processes import quiet_resource_tracker

PRELOADED = "recipe.sweep.preloaded"
METHOD = "forkserver" if sys.platform == "linux" else "spawn"  # forking is unsafe beside the frameworks of macOS


def start() -> BaseContext:
    """The way in which workers are started. Its process runs from the first call on, until this one ends."""
    if METHOD == "forkserver":
        forkserver.set_forkserver_preload([PRELOADED])
        quiet_resource_tracker()
        with _ignoring_ctrl_c():
            forkserver.ensure_running()
    return multiprocessing.get_context(METHOD)


def starting_a_worker() -> contextlib.AbstractContextManager:
    """A worker that is started inside ignores Ctrl-C, which a terminal sends to the whole group."""
    return contextlib.nullcontext() if METHOD == "forkserver" else _ignoring_ctrl_c()


@contextlib.contextmanager
def _ignoring_ctrl_c():
    """Processes that are started inside ignore Ctrl-C, and those that they fork: ignored signals are inherited."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
