"""The launcher of several processes: exit codes and signals of the ranks come through."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from toy import REPOSITORY

RANK = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(number, frame):
    time.sleep(0.3)  # what a save takes
    (folder / f"{os.environ['RANK']}-{signal.Signals(number).name}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
if sys.argv[2] == "script":
    from recipe.errors import run_script
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_script(lambda: ((folder / f"{os.getpid()}-ready").touch(), time.sleep(60)))
if sys.argv[2] != "wait":
    sys.exit(int(sys.argv[2]))
(folder / f"{os.environ['RANK']}-ready").touch()
time.sleep(60)
"""


def launch(tmp_path, what):
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    command = [sys.executable, "-m", "recipe.launch", "--standalone", "--nproc_per_node", "2", str(program)]
    command += [str(tmp_path), what]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", ["0", "2", "3"])
def test_exit_codes_come_through_without_a_traceback(tmp_path, code):
    process = launch(tmp_path, code)
    _, said = process.communicate(timeout=60)
    assert process.returncode == int(code) and "Traceback" not in said and "ChildFailedError" not in said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signals_reach_every_rank_and_75_comes_back(tmp_path, name):
    process = launch(tmp_path, "wait")
    while len(list(tmp_path.glob("*-ready"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert {f"{rank}-{name}" for rank in (0, 1)} <= {path.name for path in tmp_path.iterdir()}


def test_ranks_end_with_a_launcher_that_is_killed(tmp_path):
    process = launch(tmp_path, "script")
    while len(ready := list(tmp_path.glob("*-ready"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    ranks = [psutil.Process(int(path.name.split("-")[0])) for path in ready]
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(ranks, timeout=10)[1]
