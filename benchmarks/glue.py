#!/usr/bin/env python3
"""One SST-2 job as run_glue.py does it against the same job padded to 512 tokens: whole-process wall time, in pairs.

    python benchmarks/glue.py --model runs/first/checkpoint-500 --glue_data path/to/glue --pairs 3
    python benchmarks/glue.py --model runs/first/checkpoint-500 --glue_data path/to/glue -- --max_train_samples 640

Both sides train the same examples in the same steps and are timed from start to exit, imports, tokenisation (its cache
emptied) and evaluation included. Pairs alternate, so that a slow moment of the machine hits both. Flags after -- go to
both sides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
LONG = 512
SIDES = {
    "ours: longest of the batch": [],
    f"padded to {LONG}": ["--pad_to_max_length", "true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a checkpoint with positions for 512 tokens")
    parser.add_argument("--glue_data", required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON with every time")
    options, rest = parser.parse_known_args()
    rest = [part for part in rest if part != "--"]

    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    accuracy: dict[str, float] = {}
    for _ in range(options.pairs):
        for side, flags in SIDES.items():
            taken, accuracy[side] = timed(options, [*flags, *rest])
            seconds[side].append(taken)
    report(options, rest, seconds, accuracy)


def timed(options, flags: list[str]) -> tuple[float, float]:
    """(wall seconds of the whole process, dev accuracy) of one job."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_glue.py"), "--model_name_or_path", options.model]
        command += ["--task_name", "sst2", "--glue_data", options.glue_data, "--do_train", "--do_eval"]
        command += ["--max_seq_length", str(LONG), "--output_dir", folder, "--prepared_dir", f"{folder}/prepared"]
        command += ["--seed", "1", "--disable_tqdm", "true", *flags]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        taken = time.perf_counter() - began
        record = json.loads((Path(folder) / "sst2-seed1.json").read_text())
    return taken, record["headline"]["value"]


def report(options, rest: list[str], seconds: dict[str, list[float]], accuracy: dict[str, float]) -> None:
    """Prints the table; writes every time where --output says."""
    ours, padded = seconds.values()
    ratios = [slow / fast for fast, slow in zip(ours, padded, strict=True)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"SST-2, {options.model}, {device}, {options.pairs} pairs, {' '.join(rest) or 'the whole task'}\n")
    print("| | median s | all s | dev accuracy |\n|---|---|---|---|")
    for side, times in seconds.items():
        shown = ", ".join(f"{value:.1f}" for value in times)
        print(f"| {side} | {statistics.median(times):.1f} | {shown} | {accuracy[side]:.4f} |")
    print(f"\npadded / ours, median of the pairs: {statistics.median(ratios):.2f}x")
    if options.output:
        machine = {"device": device, "python": platform.python_version(), "torch": torch.__version__}
        content = {"model": options.model, "flags": rest, "seconds": seconds, "accuracy": accuracy, "machine": machine}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
