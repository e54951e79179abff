#!/usr/bin/env python3
"""Seconds from the command to the first step, and from the same command again to its next step, deep into a run; of a
help page and of a mistake in the flags; and, to compare with, of the imports that these can't do without.

    python benchmarks/start.py
    python benchmarks/start.py --steps --checkout ../before      help and mistakes of another checkout
    python benchmarks/start.py --steps 10 10000 1000000 --rounds 5 --model configs/roberta_mini.json

run_mlm.py is started as a user starts it; the clock stops when it prints its first step, then it is killed. The run has
2,000,000 steps and is killed after its eleventh. For a restart at step N its checkpoint-10 is written anew as
the checkpoint-N of that run: step and schedule of trainer_state.json, scheduler.pt and optimizer.pt say N and the
manifest is made anew; weights, moments and generators stay those of step 10. The program can't tell it from a run that
took N steps, and must find its place in the data, 4,096 tokens per step, by itself. Prepared tokens are there in all
rows, and rounds take the rows in turn.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import ROOT, markdown, publish
from turns import prepare_setting

sys.path.insert(0, str(ROOT))

from recipe.system.manifest import MANIFEST, manifest_of

LAST_STEP = 2_000_000
SAVED_STEP = 10
FRESH = "fresh"
IMPORTS = {
    "import torch": "import torch",
    "import TrainingArguments": "from transformers import TrainingArguments",
    "import Trainer": "from transformers import Trainer",
}
ENDS = {"--help": ["--help"], "a mistake in the flags": ["--max_seq_lenght", "128"]}  # of run_mlm.py, before its run


def main() -> None:
    options = parsed()
    tokenizer, prepared = prepare_setting(options.work, options.dataset, options.vocabulary)
    command = [sys.executable, "run_mlm.py", *flags(options, tokenizer, prepared)]
    seconds: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *ENDS, FRESH)}
    seconds |= {f"restart at step {step:,}": [] for step in options.steps}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        first_step([*command, "--output_dir", str(run), "--save_steps", str(SAVED_STEP)], until=SAVED_STEP + 1)
        for number in range(options.rounds):
            fresh = Path(folder) / f"fresh-{number}"
            seconds[FRESH].append(first_step([*command, "--output_dir", str(fresh)], until=1))
            for name, code in IMPORTS.items():
                seconds[name].append(whole([sys.executable, "-c", code], options.checkout))
            for name, argv in ENDS.items():
                seconds[name].append(whole([sys.executable, "run_mlm.py", *argv], options.checkout))
            for step in options.steps:
                its = seconds[f"restart at step {step:,}"]
                copy = Path(folder) / f"run-{number}-{step}"
                restart_at(run, copy, step)
                its.append(first_step([*command, "--output_dir", str(copy)], until=step + 1))
                shutil.rmtree(copy)
            print({name: times[-1] for name, times in seconds.items()}, file=sys.stderr)
    publish(f"Command to first step, {options.model}, {options.rounds} rounds", table(seconds), seconds, options.output)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose help and mistakes are timed")
    parser.add_argument("--steps", nargs="*", type=int, default=[10, 10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="configs/roberta_tiny.json")
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parser.add_argument("--dataset", default="docstrings")
    parser.add_argument("--work", type=Path, default=Path("data/benchmarks"), help="keeps tokenizer and tokens")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def flags(options, tokenizer: str, prepared: str) -> list[str]:
    given = {
        "--config_name": options.model,
        "--tokenizer_name": tokenizer,
        "--dataset_name": options.dataset,
        "--prepared_dir": prepared,
        "--max_seq_length": 128,
        "--per_device_train_batch_size": 32,
        "--dropout": 0,
        "--max_steps": LAST_STEP,
        "--learning_rate": 1e-4,
        "--logging_steps": 1,
        "--disable_tqdm": True,
    }
    if not torch.cuda.is_available():
        given["--use_cpu"] = True
    long_run = ["--allow_implausible", "epochs", "time"]
    return ["--do_train", *(str(part) for pair in given.items() for part in pair), *long_run]


def whole(command: list[str], checkout: Path) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, cwd=checkout, capture_output=True, check=False)
    return time.perf_counter() - began


def first_step(command: list[str], until: int) -> float:
    """Seconds until the command prints that it took step `until`; it is killed then."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            words = line.split()
            if words[:1] == ["step"] and words[1].split("/")[0] == str(until):
                return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    raise SystemExit(f"the run ended before step {until}:\n{''.join(printed)[-3000:]}")


def restart_at(run: Path, copy: Path, step: int) -> Path:
    """Makes `copy` the folder of the run `run` with one checkpoint, that of `step`; returns the checkpoint."""
    copy.mkdir()
    shutil.copy(run / "run.json", copy)
    checkpoint = copy / f"checkpoint-{step}"
    shutil.copytree(run / f"checkpoint-{SAVED_STEP}", checkpoint)
    state_file, schedule_file, optimizer_file = (
        checkpoint / name for name in ("trainer_state.json", "scheduler.pt", "optimizer.pt")
    )
    state = json.loads(state_file.read_text())
    state["epoch"] *= step / state["global_step"]
    state["global_step"] = step
    state["log_history"] = []
    for kept in state["stateful_callbacks"].values():
        if "since" in kept.get("attributes", {}):
            kept["attributes"] = {"sum": 0.0, "since": step}
    state_file.write_text(json.dumps(state))
    schedule = torch.load(schedule_file, weights_only=True)
    schedule["last_epoch"], schedule["_step_count"] = step, step + 1
    torch.save(schedule, schedule_file)
    optimizer = torch.load(optimizer_file, weights_only=True)
    for moments in optimizer["state"].values():
        moments["step"].fill_(step)
    torch.save(optimizer, optimizer_file)
    (checkpoint / MANIFEST).unlink()
    files = {path.name: path for path in sorted(checkpoint.iterdir())}
    (checkpoint / MANIFEST).write_text(manifest_of(files))
    return checkpoint


def table(seconds: dict[str, list[float]]) -> str:
    """A line a start, beside the fresh one of its round."""
    lines = []
    for name, times in seconds.items():
        ratios = [time / fresh for time, fresh in zip(times, seconds[FRESH], strict=True)]
        shown = ", ".join(f"{time:.1f}" for time in times)
        lines.append([name, f"{statistics.median(times):.1f}", shown, f"{statistics.median(ratios):.2f}"])
    return markdown(["", "median s", "all s", "of the fresh start in its round"], lines)


if __name__ == "__main__":
    main()
