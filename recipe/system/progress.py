"""Progress of long steps on stderr: on a terminal a bar of at most 80 columns, in a log file a line every so often.

Only the first rank shows anything, and steps that are over within a second (10 seconds in a log file) show nothing.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

WIDTH = 80  # columns, at most
BAR_AFTER = 1.0  # seconds until a step's bar appears on a terminal
BAR_EVERY = 0.2
FIRST_LINE = 10.0  # seconds until a step's first line in a log file
NEXT_LINES = 30.0
SHORTEST_BAR = 8
BYTES = "B"
T = TypeVar("T")


class Progress:
    """Shows how far a step is while it is used as a context. Another one begun inside of it is shown in its place.

    `total` is the amount of work in `unit`, None where it is unknown, which shows the time that has passed; BYTES are
    shown in kB, MB or GB. The work done is what `update` added, or what the function `done` returns. Attributes may
    change at any time.
    """

    def __init__(self, what: str, total: float | None = None, unit: str = "", done: Callable[[], float] | None = None):
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.note = ""  # in place of amount and rate
        self._added = 0.0
        self.first_bar = self.next_line = 0.0

    def restart(self) -> None:
        """Measures time and rate from now and from the amount that is done now."""
        self.began, self.initial = time.monotonic(), self.amount

    @property
    def amount(self) -> float:
        """The work that is done."""
        return self.done() if self.done else self._added

    def update(self, amount: float = 1) -> None:
        """Adds to the work that is done."""
        self._added += amount

    def said(self) -> None:
        """Delays the next line in a log file, which has just received another line about this step."""
        self.next_line = time.monotonic() + NEXT_LINES

    def __enter__(self) -> "Progress":
        self.restart()
        self.first_bar, self.next_line = self.began + BAR_AFTER, self.began + FIRST_LINE
        if _shown():
            _display.begin(self)
        return self

    def __exit__(self, *error) -> None:
        _display.end(self)

    def line(self) -> str:
        """What a log file gets: "tokenising my_text: 45 %, 31.2 of 69.0 MB, 1.2 MB/s, 33 s left"."""
        return f"{self.what}: {', '.join(self._facts())}"

    def bar(self, columns: int) -> str:
        """What a terminal shows, in less than `columns`."""
        what, facts = _shortened(self.what, columns * 2 // 5), self._facts()
        if not self.total:
            return f"{what}: {', '.join(facts)}"[: columns - 1]
        share, *rest = facts
        for few in (rest, [rest[0], rest[-1]], rest[-1:], []):
            free = columns - 1 - len(f"{what} {share} || {', '.join(few)}")
            if free >= SHORTEST_BAR:
                break
        drawn = tqdm.format_meter(min(self.amount, self.total), self.total, 1, ncols=max(free, 1), bar_format="{bar}")
        return f"{what} {share} |{drawn}| {', '.join(few)}"[: columns - 1]

    def _facts(self) -> list[str]:
        amount, seconds = self.amount, max(time.monotonic() - self.began, 1e-9)
        rate = (amount - self.initial) / seconds
        facts = [f"{min(1.0, amount / self.total):.0%}".replace("%", " %")] if self.total else []
        if self.note:
            facts.append(self.note)
        elif self.unit:
            size = f"{_amount(amount, self.unit)} of " if self.total else ""
            facts.append(f"{size}{_amount(self.total or amount, self.unit, named=True)}")
            if rate > 0:
                facts.append(self._speed(rate))
        left = (self.total - amount) / rate if self.total and rate > 0 else None
        return [*facts, f"{duration(seconds)} so far" if left is None else f"{duration(max(left, 0.0))} left"]

    def _speed(self, rate: float) -> str:
        if self.unit == BYTES:
            return f"{_amount(rate, BYTES)}/s"
        one = self.unit.removesuffix("es" if self.unit.endswith("ches") else "s")
        return f"{rate:,.1f}/s" if rate >= 1 else f"{duration(1 / rate)} per {one}"


def track(items: Iterable[T], what: str, total: float, unit: str) -> Iterator[T]:
    """The items, with the progress of whoever consumes them."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


def hide_progress(hidden: bool) -> None:
    """Shows no progress from now on (--disable_tqdm), or shows it again."""
    _display.hidden = hidden


def say(text: str, stream=None) -> None:
    """Prints a line above the bar, if there is one; the next line of progress in a log file is delayed by it."""
    stream = stream or sys.stdout
    with _display.above_bar():
        print(text, file=stream, flush=True)
        if _display.steps:
            _display.steps[-1].said()


def duration(seconds: float) -> str:
    """A time in its two largest units: 40 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    seconds = round(seconds)
    for unit, size, smaller, its_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // its_size
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def _shown() -> bool:
    return not _display.hidden and os.environ.get("RANK", "0") == "0" and sys.stderr is not None


def _amount(number: float, unit: str, named: bool = False) -> str:
    if unit == BYTES:
        factor, name = next(((f, n) for f, n in ((1e9, "GB"), (1e6, "MB")) if number >= f), (1e3, "kB"))
        return f"{number / factor:,.1f} {name}"
    return f"{int(number):,} {unit}" if named else f"{int(number):,}"


def _shortened(text: str, longest: int) -> str:
    """`text`, without its middle if it is longer than that."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


class _Display:
    """Draws the innermost progress from a thread of its own, so that the time advances while a library computes."""

    def __init__(self):
        self.hidden = False
        self.steps: list[Progress] = []
        self.lock = threading.RLock()
        self.changed = threading.Event()
        self.thread: threading.Thread | None = None
        self.drawn = False  # whether a bar stands in the terminal's last line
        self.process = os.getpid()

    def begin(self, step: Progress) -> None:
        with self.lock:
            self.steps.append(step)
            if self.thread is None:
                self.process = os.getpid()
                self.thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self.thread.start()
        self.changed.set()

    def end(self, step: Progress) -> None:
        if step not in self.steps:
            return
        with self.lock:
            self.steps.remove(step)
            self.erase()
            if self.steps:
                self.steps[-1].said()
        self.changed.set()

    def _run(self) -> None:
        while True:
            with self.lock:
                if not self.steps:
                    self.thread = None
                    return
                pause = self._draw(self.steps[-1])
            self.changed.wait(pause)
            self.changed.clear()

    def _draw(self, step: Progress) -> float:
        """Shows the step if it is time to; returns the seconds until the next look."""
        now = time.monotonic()
        if self.hidden:
            return NEXT_LINES
        if _is_terminal(sys.stderr):
            _guard_streams()
            if now < step.first_bar:
                return min(BAR_EVERY, step.first_bar - now)
            self._write(f"\r{step.bar(min(WIDTH, shutil.get_terminal_size().columns or WIDTH))}\x1b[K")
            self.drawn = True
            return BAR_EVERY
        if now >= step.next_line:
            self._write(f"{step.line()}\n")
            step.next_line = now + NEXT_LINES
        return max(0.01, step.next_line - now)

    def erase(self) -> None:
        if self.drawn:
            self.drawn = False
            self._write("\r\x1b[K")

    def above_bar(self) -> "_Display":
        return self

    def __enter__(self) -> None:
        self.lock.acquire()
        self.erase()

    def __exit__(self, *error) -> None:
        self.lock.release()

    def _write(self, text: str) -> None:
        try:
            write = getattr(sys.stderr.write, "unguarded", sys.stderr.write)
            write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # a terminal that is gone, a stream that is closed: no reason to stop the work
            self.hidden = True


_display = _Display()


def _is_terminal(stream) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _guard_streams() -> None:
    """Lets whatever is written to the console, a library's warning too, erase the bar first."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not hasattr(stream.write, "unguarded"):
            stream.write = _guarded(stream.write)


def _guarded(write):
    def guarded_write(text):
        if not _display.drawn or os.getpid() != _display.process:
            return write(text)
        with _display.above_bar():
            return write(text)

    guarded_write.unguarded = write
    guarded_write.redacts = getattr(write, "redacts", False)
    return guarded_write
