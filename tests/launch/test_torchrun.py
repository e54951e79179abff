"""python -m recipe.launch passes exit codes and signals between the shell and the ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from toy import REPOSITORY, config_settings, toy_documents

RANK = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(number, frame):
    time.sleep(0.3)  # the duration of a save
    (folder / f"{os.environ['RANK']}-{signal.Signals(number).name}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
if sys.argv[2] == "script":
    from recipe.cli.program import run_script
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
def test_exit_codes_are_passed_on_without_a_traceback(tmp_path, code):
    process = launch(tmp_path, code)
    _, output = process.communicate(timeout=60)
    assert process.returncode == int(code) and "Traceback" not in output and "ChildFailedError" not in output


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signals_reach_every_rank_and_exit_code_75_is_passed_on(tmp_path, name):
    process = launch(tmp_path, "wait")
    while len(list(tmp_path.glob("*-ready"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert {f"{rank}-{name}" for rank in (0, 1)} <= {path.name for path in tmp_path.iterdir()}


def test_ranks_end_when_their_launcher_is_killed(tmp_path):
    process = launch(tmp_path, "script")
    while len(ready := list(tmp_path.glob("*-ready"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    ranks = [psutil.Process(int(path.name.split("-")[0])) for path in ready]
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(ranks, timeout=10)[1]


TWO = {
    "torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2"],
    "recipe.launch": ["python", "-m", "recipe.launch", "--standalone", "--nproc_per_node", "2"],
    "deepspeed": ["deepspeed", "--num_accelerators", "2", "--master_port", "29611"],
    "accelerate": ["accelerate", "launch", "--num_processes", "2"],  # starts one process without a GPU
}


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
@pytest.mark.parametrize("launcher", list(TWO))
def test_a_run_trains_on_the_whole_global_batch_under_any_launcher(tmp_path, launcher):
    (tmp_path / "corpus.txt").write_text("\n\n".join(toy_documents(220)))
    (tmp_path / "roberta.json").write_text(json.dumps(config_settings("roberta", 400)))
    flags = {
        "config_name": "roberta.json", "tokenizer_name": "train", "vocab_size": 300, "train_file": "corpus.txt",
        "output_dir": "run", "max_seq_length": 32, "global_batch_size": 8, "per_device_train_batch_size": 4,
        "max_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    command = [*TWO[launcher], str(REPOSITORY / "run_mlm.py"), "--do_train"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    cut = "2 accumulations x 1 process" if launcher == "accelerate" else "1 accumulation x 2 processes"
    assert f"4 sequences x {cut} = 8 sequences" in done.stdout
    steps = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").open() if '"loss"' in line]
    assert len(steps) == 2
