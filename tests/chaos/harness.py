"""Runs run_mlm.py in forked children that tests can kill at any moment.

A child is a real process with a real run folder; only the ten seconds of imports are shared. It reports its phase (in a
step, in accumulation, evaluating, saving ...) in a byte of shared memory, so that the phase of each kill is known.
"""

import hashlib
import json
import mmap
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import run_mlm
from recipe.cli.program import run_script
from recipe.model.checkpoints import checkpoints
from recipe.train.trainer import PretrainTrainer

PHASES = ("set-up", "step", "accumulation", "evaluation", "saving", "between", "end")
SETTINGS = {
    "--vocab_size": "300", "--tokenizer_name": "train", "--max_seq_length": "32", "--per_device_train_batch_size": "4",
    "--gradient_accumulation_steps": "2", "--max_steps": "40", "--save_steps": "5", "--eval_steps": "8",
    "--eval_strategy": "steps", "--logging_steps": "3", "--learning_rate": "1e-2", "--warmup_steps": "4",
    "--use_cpu": "true", "--disable_tqdm": "true",
}  # fmt: skip


@dataclass
class Bench:
    """A folder with a corpus, a config and the runs made from them."""

    folder: Path
    text: Path
    config: Path
    phase: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 1))

    def argv(self, run: str, **settings) -> list[str]:
        flags = SETTINGS | {
            "--config_name": str(self.config),
            "--train_file": str(self.text),
            "--prepared_dir": str(self.folder / "data"),
            "--output_dir": str(self.folder / run),
        }
        flags |= {f"--{name}": str(value) for name, value in settings.items()}
        return ["run_mlm.py", *(part for pair in flags.items() for part in pair), "--do_train", "--do_eval"]

    def start(self, run: str, before=None, **settings) -> int:
        """Forks a child that calls `before`, then runs run_mlm.py with the output folder `run`. Returns its pid."""
        self.phase[0] = 0
        pid = os.fork()
        if pid:
            return pid
        try:
            os.chdir(self.folder)
            log = os.open(self.folder / f"{run}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # replace pytest's
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            torch.set_num_threads(1)
            self._watch()
            if before:
                before()
            sys.argv = self.argv(run, **settings)
            run_script(run_mlm.main)
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)

    def finish(self, run: str, **settings) -> int:
        """Runs to the end; returns the exit code."""
        return wait(self.start(run, **settings))

    def now(self) -> str:
        """The current phase of the child."""
        return PHASES[self.phase[0]]

    def _watch(self) -> None:
        """Has the child's trainer write its phase to the shared byte."""

        def marked(name: str, phase: str, after: str):
            original = getattr(PretrainTrainer, name)

            def wrapper(trainer, *args, **kwargs):
                self.phase[0] = PHASES.index(phase)
                try:
                    return original(trainer, *args, **kwargs)
                finally:
                    self.phase[0] = PHASES.index(after)

            setattr(PretrainTrainer, name, wrapper)

        marked("training_step", "step", "accumulation")
        marked("log", "between", "between")
        marked("evaluation_loop", "evaluation", "between")
        marked("_save_checkpoint", "saving", "between")
        marked("save_state", "end", "end")


def wait(pid: int) -> int:
    """The exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def alive(pid: int) -> bool:
    """Whether the child is still running. Its exit code remains available to `wait`."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_after(pid: int, seconds: float, number: int = signal.SIGKILL) -> bool:
    """Sends a signal after `seconds` unless the child ends before. Returns whether it was sent."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pid):
            return False
        time.sleep(0.001)
    os.kill(pid, number)
    return True


def state_of(run: Path) -> str:
    """sha256 of the newest checkpoint's weights and optimizer state and of the final model."""
    newest = checkpoints(run)[-1]
    digest = hashlib.sha256((newest / "model.safetensors").read_bytes())
    digest.update((run / "model.safetensors").read_bytes())
    optimizer = torch.load(newest / "optimizer.pt", weights_only=True)
    for number in sorted(optimizer["state"]):
        for name in sorted(optimizer["state"][number]):
            digest.update(optimizer["state"][number][name].numpy().tobytes())
    return f"{newest.name} {digest.hexdigest()}"


def curve_of(run: Path) -> list[tuple]:
    """(step, loss, eval loss) of every line of log.jsonl in order, duplicates included."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in lines if "train_loss" not in line]


def moments(count: int, whole: dict, seed: int) -> list[float]:
    """`count` random times, in seconds after the start, of a run like `whole`."""
    generator = random.Random(seed)
    return [generator.uniform(whole["from"], whole["seconds"]) for _ in range(count)]
