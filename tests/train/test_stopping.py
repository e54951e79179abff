"""Ctrl-C and SIGTERM sent to real runs, on a pseudo-terminal and with a log file as stderr."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from toy import REPOSITORY, config_settings, toy_documents

SLOW_STEPS = """
import sys, time
sys.path.insert(0, {repository!r})
import run_mlm
from recipe.cli.program import run_script
from recipe.train import build

class Slow(build.PretrainTrainer):
    begun = 0

    def training_step(self, *args, **kwargs):
        if self.begun <= self.state.global_step:
            self.begun = self.state.global_step + 1
            time.sleep({seconds})
            if self.is_world_process_zero():
                print("begun", self.begun, flush=True)
            time.sleep({seconds})
        return super().training_step(*args, **kwargs)

build.PretrainTrainer = Slow
run_script(run_mlm.main)
"""


class Run:
    """A pre-training in a process of its own; `text` is what it has printed so far."""

    def __init__(self, folder, *more, terminal=False, ranks=1, seconds=0.4, program=SLOW_STEPS):
        (folder / "corpus.txt").write_text("\n\n".join(toy_documents(220)))
        (folder / "roberta.json").write_text(json.dumps(config_settings("roberta", 400)))
        (folder / "slow.py").write_text(program.format(repository=str(REPOSITORY), seconds=seconds))
        flags = {
            "config_name": "roberta.json", "tokenizer_name": "train", "vocab_size": 300, "train_file": "corpus.txt",
            "output_dir": "run", "max_seq_length": 32, "global_batch_size": 8, "per_device_train_batch_size": 4,
            "max_steps": 12, "logging_steps": 1, "save_steps": 3, "use_cpu": "true", "eval_strategy": "no",
        }  # fmt: skip
        start = [sys.executable]
        if ranks > 1:
            start += ["-m", "recipe.launch", "--standalone", "--nproc_per_node", str(ranks)]
        command = [*start, "slow.py", "--do_train", "--do_eval"]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))] + [*more]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": ""}
        self.read, write = pty.openpty() if terminal else os.pipe()
        self.text, self.folder = "", folder
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=write, stderr=write, start_new_session=True
        )
        os.close(write)
        self.reader = threading.Thread(target=self._collect)
        self.reader.start()

    def _collect(self):
        try:
            while chunk := os.read(self.read, 4096):
                self.text += chunk.decode(errors="replace")
        except OSError:  # Linux ends a terminal so
            pass

    def until(self, pattern, seconds=90):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end and self.process.poll() is None, self.text
            time.sleep(0.02)
        return time.monotonic()

    def press_ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        return time.monotonic()

    def end(self, seconds=60):
        code = self.process.wait(seconds)
        self.reader.join(10)
        assert "Traceback" not in self.text and "resource_tracker" not in self.text, self.text
        return code

    def steps(self):
        return sorted(int(path.name.split("-")[1]) for path in (self.folder / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_says_at_once_when_it_will_stop_and_what_again_costs(tmp_path, terminal):
    run = Run(tmp_path, terminal=terminal)
    run.until("begun 5")
    pressed = run.press_ctrl_c()
    assert run.until("stopping after step 5") - pressed < 0.35  # the step has 0.4 s to go
    assert re.search(r"stopping after step 5, in about 1 s; Ctrl-C again: at once, which loses 1 step\b", run.text)
    assert run.end() == 75 and run.steps() == [3, 5]
    assert "stopped by Ctrl-C after step 5, saved in run/checkpoint-5: the same command continues" in run.text


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_twice_stops_at_once_and_the_same_command_continues(tmp_path, ranks):
    run = Run(tmp_path, ranks=ranks, seconds=1.5)
    run.until("begun 5")
    run.press_ctrl_c()
    run.until("which loses 1 step")
    time.sleep(0.4)
    pressed = run.press_ctrl_c()
    code = run.end()
    assert code == 130 and (ranks > 1 or time.monotonic() - pressed < 1.0)
    assert run.steps() == [3] and run.text.count("stopping after") == 1 == run.text.count("stopped at once")
    assert not [path.name for path in (tmp_path / "run").iterdir() if "partial" in path.name or "staging" in path.name]
    run = Run(tmp_path, ranks=ranks, seconds=0)
    assert run.end() == 0 and "begun 4" in run.text and "begun 3" not in run.text and run.steps()[-1] == 12


def test_sigterm_twice_still_saves(tmp_path):
    run = Run(tmp_path)
    run.until("begun 2")
    for _ in range(2):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.35)
    assert run.end() == 75 and run.steps()[-1] in (2, 3) and "stopped at once" not in run.text


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_before_the_first_step_ends_with_one_line(tmp_path, ranks):
    waiting = SLOW_STEPS.replace("build.PretrainTrainer = Slow", "import recipe.data.inputs as inputs; "
        "inputs.prepare_tokens = lambda *_, **__: (print('preparing', flush=True), time.sleep(60))")  # fmt: skip
    run = Run(tmp_path, ranks=ranks, program=waiting)
    run.until("preparing")
    time.sleep(0.3)
    before, pressed = len(run.text), run.press_ctrl_c()
    assert run.end() == 130 and time.monotonic() - pressed < 10
    (line,) = run.text[before:].split("\n")[:-1]
    assert line.strip().startswith("stopped by Ctrl-C: what is finished is kept")


def test_ctrl_c_ends_a_program_whose_main_thread_is_in_a_library(tmp_path):
    program = "\n".join(
        [
            "import ctypes, sys",
            f"sys.path.insert(0, {str(REPOSITORY)!r})",
            "from recipe.cli.program import run_script",
            "libc = ctypes.CDLL(None)",
            "def main():",
            "    print('computing', flush=True)",
            "    while True: libc.sleep(60)",
            "run_script(main)",
        ]
    )
    (tmp_path / "stuck.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "stuck.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and said.count("stopped by Ctrl-C") == 1 and "Traceback" not in said


def test_the_last_step_is_evaluated_once_and_results_are_those_of_its_log(tmp_path):
    run = Run(tmp_path, "--eval_strategy", "steps", "--eval_steps", "3", "--max_steps", "6", seconds=0)
    assert run.end() == 0 and run.text.count("step 6/6  eval loss") == 1
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    logs = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    (at_the_end,) = [log for log in logs if log["step"] == 6 and "eval_loss" in log]
    assert {key: results[key] for key in ("eval_loss", "eval_runtime")} == {
        key: at_the_end[key] for key in ("eval_loss", "eval_runtime")
    }
