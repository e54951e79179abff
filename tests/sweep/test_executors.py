"""recipe.sweep.executors: Ctrl-C while worker processes are being started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy import REPOSITORY, until

PROGRAM = """
import os, sys, time
from pathlib import Path
from recipe.sweep.executors import Processes, end_workers, on_stop_signals

if __name__ == "__main__":
    on_stop_signals(lambda number, frame: (print("stopped", flush=True), end_workers(), os._exit(75)))
    engine = Processes(Path(sys.argv[1]), per_device=2)
    time.sleep(300)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers under /proc")
def test_ctrl_c_while_workers_import_shows_no_traceback_of_theirs(tmp_path):
    """A terminal sends Ctrl-C to the whole process group; what workers are forked from has the console meanwhile."""
    (tmp_path / "program.py").write_text(PROGRAM)
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "logs")],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: len(servers_of(process.pid)) == 1, seconds=400)
        (server,) = servers_of(process.pid)
        until(lambda: maps_of(server))  # far enough for Python to answer SIGINT
        assert not list((tmp_path / "logs").glob("*")), "the workers are past their imports"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "stopped\n" and process.returncode == 75
        until(lambda: not Path(f"/proc/{server}").exists(), seconds=20)
        assert "Traceback" not in errors.read_text() and "KeyboardInterrupt" not in errors.read_text()
    finally:
        process.kill()


def servers_of(process_id: int) -> list[str]:
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [child for child in children if b"forkserver" in _read(Path(f"/proc/{child}/cmdline"))]


def maps_of(process: str) -> bool:
    """Whether it has begun to import torch."""
    return b"libtorch" in _read(Path(f"/proc/{process}/maps"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
