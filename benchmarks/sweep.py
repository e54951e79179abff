#!/usr/bin/env python3
"""The wall time of a whole sweep, from the command to its end: nine GLUE tasks of several checkpoints at 300 examples.

    python benchmarks/sweep.py --glue_data glue/ runs/NAME/checkpoint-500 runs/NAME/checkpoint-1000
    python benchmarks/sweep.py --glue_data glue/ --before ../older runs/NAME/checkpoint-500

`--before` is another checkout of this repository, which takes turns with this one; the scores of both are compared.
Tokenised examples are there from a first sweep that is not counted. A job is one epoch of 300 examples and an
evaluation on 300, so that what isn't a step has its full weight.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, markdown, publish

TASKS = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
EXAMPLES = "300"


def main() -> None:
    options = parsed()
    sides = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    scores: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for side, checkout in sides.items():
                taken, found = timed(options, checkout.resolve(), Path(folder), f"{side}-{number}")
                if scores.setdefault("first", found) != found:
                    sys.exit(f"the scores of {side} differ from the first ones")
                if number:
                    seconds[side].append(taken)
            print({side: times[-1:] for side, times in seconds.items()}, file=sys.stderr)
    jobs = len(TASKS) * len(options.checkpoints)
    title = f"A sweep of {jobs} jobs, {len(TASKS)} tasks of {len(options.checkpoints)} checkpoints, identical scores"
    publish(title, table(seconds, jobs), seconds, options.output)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--glue_data", required=True, type=Path)
    parser.add_argument("--before", type=Path, help="another checkout, to take turns with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def timed(options, checkout: Path, folder: Path, name: str) -> tuple[float, dict]:
    """(wall seconds of the command, the metrics of each job) of a sweep by the code in `checkout`."""
    results = folder / name
    command = [sys.executable, "-m", "recipe.sweep", "--tasks", *TASKS, "--glue_data", str(options.glue_data.resolve())]
    command += ["--runs", *(str(Path(checkpoint).resolve()) for checkpoint in options.checkpoints)]
    command += ["--results_dir", str(results), "--prepared_dir", str(folder / "prepared"), "--num_train_epochs", "1"]
    command += ["--max_train_samples", EXAMPLES, "--max_eval_samples", EXAMPLES, "--seeds", "1"]
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    records = (json.loads(file.read_text()) for file in sorted((results / "jobs").rglob("*-seed1.json")))
    return taken, {f"{r['checkpoint']['name']} {r['task']}": r["metrics"] for r in records}


def table(seconds: dict[str, list[float]], jobs: int) -> str:
    rows = [
        (side, f"{statistics.median(times):.1f} s", f"{min(times):.1f} - {max(times):.1f} s",
         f"{statistics.median(times) / jobs:.2f} s")
        for side, times in seconds.items()
    ]  # fmt: skip
    text = markdown(("", "median", "range", "per job"), rows)
    if len(seconds) == 2:
        before, now = (statistics.median(times) for times in seconds.values())
        text += f"\n\n{before / now:.2f} times as fast as before."
    return text


if __name__ == "__main__":
    main()
