"""Processes that end with their parent, and what is cleaned up after them."""

import ctypes
import signal
import sys
from multiprocessing import resource_tracker

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Has the kernel kill this process when the thread that started it ends. The setting survives exec but not fork;
    it does nothing outside of Linux."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def quiet_resource_tracker() -> None:
    """Starts the process that removes the semaphores of worker pools, without its warning: a program that a signal ends
    leaves some, and removing them is what that process is for."""
    option = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(option)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(option)
