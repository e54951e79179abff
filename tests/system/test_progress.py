"""Progress in real processes: a bar on a pseudo-terminal, plain lines in a file, nothing where nothing is due."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from toy import REPOSITORY

from recipe.system.progress import Progress, duration

QUICK = (
    "import recipe.system.progress as p; p.BAR_AFTER, p.BAR_EVERY, p.FIRST_LINE, p.NEXT_LINES = 0.05, 0.05, 0.1, 0.1\n"
)
STEP = (
    QUICK
    + """
import sys, time, warnings
with p.Progress("tokenising a_rather_long_name_of_a_corpus_in_a_folder", 4e6, p.BYTES) as progress:
    for part in range(4):
        time.sleep(0.15)
        progress.update(1e6)
        if part == 1:
            print("a line")
            warnings.warn("a library's warning")
"""
)


def in_terminal(program: str, columns: int = 80, **environment: str) -> str:
    """What `program` writes to a terminal of `columns`."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command, environment = [sys.executable, "-c", program], os.environ | {"COLUMNS": ""} | environment
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 4096):
            written += chunk
    except OSError:  # Linux ends a terminal so
        pass
    assert process.wait(60) == 0, written.decode()
    return written.decode()


def in_file(program: str, folder: Path, **environment: str) -> str:
    """What `program` writes to a file as its stderr."""
    with (folder / "log").open("w") as log:
        environment = os.environ | environment
        subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, stderr=log, env=environment, check=True)
    return (folder / "log").read_text()


def screen_of(written: str) -> list[str]:
    """The lines of a terminal once `written` was written: a carriage return writes over the line, ESC [K erases it."""
    lines = [""]
    for part in re.split(r"(\r\n|\n|\r|\x1b\[K)", written):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part == "\r":
            column = 0
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            column = 0 if not lines[-1] else column
            lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
            column += len(part)
    return lines


@pytest.mark.parametrize("columns", [80, 132, 40])
def test_a_terminal_gets_a_bar_that_fits_and_is_erased(columns):
    written = in_terminal(STEP, columns)
    drawn = [bar for bar in re.findall(r"\r([^\r\n\x1b]+)\x1b\[K", written) if "|" in bar]
    assert drawn and all(len(bar) < min(columns, 80) for bar in drawn)
    assert any("50 %" in bar for bar in drawn) and (columns == 40 or any("left" in bar for bar in drawn))
    screen = screen_of(written)
    assert screen[0] == "a line" and "a library's warning" in screen[1]  # neither is mixed with the bar
    assert not any("tokenising" in line for line in screen)


def test_a_log_file_gets_plain_lines_with_share_rate_and_time_left(tmp_path):
    lines = in_file(STEP, tmp_path).splitlines()
    lines = [line for line in lines if line.startswith("tokenising")]
    assert 3 <= len(lines) <= 6
    pattern = r"tokenising \S+: \d+ %, \d\.\d MB of 4\.0 MB, [\d.]+ [kM]B/s, \d+ s left"
    assert all(re.fullmatch(pattern, line) for line in lines[2:]), lines


def test_a_log_file_gets_no_carriage_return(tmp_path):
    assert "\r" not in in_file(STEP, tmp_path) and "\x1b" not in in_file(STEP, tmp_path)


def test_time_goes_on_while_the_step_stands_still(tmp_path):
    program = QUICK + "import time\nwith p.Progress('computing'): time.sleep(1.5)"
    lines = in_file(program, tmp_path).splitlines()
    assert lines[0] == "computing: 0 s so far" and lines[-1] == "computing: 1 s so far"


def test_the_inner_step_is_shown_then_the_outer_one_again(tmp_path):
    program = (
        QUICK
        + "import time\nwith p.Progress('outer'):\n  with p.Progress('inner'): time.sleep(0.25)\n  time.sleep(0.25)"
    )
    names = [line.split(":")[0] for line in in_file(program, tmp_path).splitlines()]
    assert names == sorted(names) and {"inner", "outer"} == set(names)


@pytest.mark.parametrize("why", ["rank", "hidden", "short"])
def test_nothing_is_shown_on_other_ranks_or_when_hidden_or_of_short_steps(why, tmp_path):
    program = STEP.replace("warnings.warn", "str")
    if why == "hidden":
        program = program.replace("\nwith", "\np.hide_progress(True)\nwith")
    if why == "short":
        program = program.removeprefix(QUICK).replace("import sys", "import recipe.system.progress as p, sys")
    environment = {"RANK": "1"} if why == "rank" else {"RANK": "0"}
    assert in_file(program, tmp_path, **environment) == ""
    assert in_terminal(program, **environment).split() == ["a", "line"]


def test_time_in_two_units():
    assert [duration(s) for s in (0.4, 59, 60, 200, 3600, 7500, 90000, 400000)] == [
        "0 s", "59 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min", "1 d 1 h", "4 d 15 h",
    ]  # fmt: skip


def test_more_work_than_expected_is_all_of_it():
    progress = Progress("reading", 10, "rows")
    progress.restart()
    progress.update(12)
    assert progress.line().startswith("reading: 100 %, 12 of 10 rows") and progress.line().endswith("0 s left")
