"""Signals that are answered at once, by a thread: Python runs its own handlers only between two of its instructions,
and the main thread may be in a library's call for minutes."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable

from recipe.system.errors import CTRL_C_EXIT_CODE
from recipe.system.progress import say

SAME_SIGNAL_SECONDS = 0.3  # a launcher and the terminal may both deliver one Ctrl-C
SECONDS_TO_END = 2.0  # for what the main thread closes on its way out
STOPPED = "stopped by Ctrl-C: what is finished is kept, and the same command continues from there"

_announced = threading.Lock()  # acquired once
_wakeups: tuple[socket.socket, socket.socket] | None = None


class PromptHandler:
    """A signal handler in two parts: `at_once` runs in the thread, within milliseconds; `in_order` in the main thread,
    as a handler of Python's does."""

    def __init__(
        self,
        at_once: Callable[[signal.Signals], None],
        in_order: Callable[[signal.Signals], None] = lambda number: None,
    ):
        self.at_once, self.in_order = at_once, in_order

    def __call__(self, number: int, frame) -> None:
        self.in_order(signal.Signals(number))


def handle(numbers: Iterable[signal.Signals], handler: PromptHandler) -> dict[signal.Signals, object]:
    """Installs `handler`; returns the handlers that were there before. Only the main thread can call it."""
    _listen()
    return {number: signal.signal(number, handler) for number in numbers}


def end_on_ctrl_c() -> None:
    """Lets Ctrl-C end the program with one line and exit code 130, as KeyboardInterrupt in the main thread; where that
    doesn't come to it within SECONDS_TO_END, or at a second Ctrl-C, without it."""

    def interrupt(number: signal.Signals) -> None:
        raise KeyboardInterrupt

    handle([signal.SIGINT], PromptHandler(_Ending(), interrupt))


class _Ending:
    """The thread's part of `end_on_ctrl_c`."""

    def __init__(self):
        self.begun = False

    def __call__(self, number: signal.Signals) -> None:
        if self.begun:
            exit_now(CTRL_C_EXIT_CODE)
        self.begun = True
        announce_stop()
        timer = threading.Timer(SECONDS_TO_END, exit_now, [CTRL_C_EXIT_CODE])
        timer.daemon = True
        timer.start()


def announce_stop() -> None:
    """Says once, on the first rank, that Ctrl-C ends the program."""
    if os.environ.get("RANK", "0") == "0" and _announced.acquire(blocking=False):
        say(STOPPED, sys.stderr)


def exit_now(code: int) -> None:
    """Ends the process without waiting for its other threads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue
    os._exit(code)


def _listen() -> None:
    """Starts the thread that is woken by each signal, once per process."""
    global _wakeups
    if _wakeups is None:
        _wakeups = socket.socketpair()
        for end in _wakeups:
            end.setblocking(False)
        os.register_at_fork(
            after_in_child=lambda: signal.set_wakeup_fd(-1)
        )  # a worker's signals are not this process's
        threading.Thread(target=_answer, args=(_wakeups[0],), name="signals", daemon=True).start()
    signal.set_wakeup_fd(_wakeups[1].fileno(), warn_on_full_buffer=False)


def _answer(wakeups: socket.socket) -> None:
    wakeups.setblocking(True)
    last: dict[int, float] = {}
    while received := wakeups.recv(64):
        for number in received:
            now = time.monotonic()
            handler = signal.getsignal(number)
            if isinstance(handler, PromptHandler) and now - last.get(number, -1e9) > SAME_SIGNAL_SECONDS:
                last[number] = now
                handler.at_once(signal.Signals(number))
