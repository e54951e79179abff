#!/usr/bin/env python3
"""Planned beside measured: time and memory of runs of several sizes, by bash pretrain.sh as a user starts it.

    python benchmarks/plan.py                                              six sizes, about a minute of training each
    python benchmarks/plan.py --sizes roberta_tiny:600 bert_mini:100 --output data/benchmarks/results/plan.json

A size is a config's name and its number of steps. Each run begins with a calibration of its own; what it planned and
what was measured stand in its plan.json. The text and the tokenizer are the demonstration's.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from measuring import ROOT, markdown, publish

SIZES = (
    "modernbert_tiny:400", "roberta_tiny:300", "bert_mini:80", "modernbert_small:24", "roberta_medium:12",
    "roberta_base:6",
)  # fmt: skip
HEADER = ("model", "steps", "planned", "measured", "within the range", "middle / measured", "planned MB", "measured MB",
          "planned / measured")  # fmt: skip


def run(size: str, folder: Path) -> dict:
    """plan.json of one run."""
    config, _, steps = size.partition(":")
    settings = {
        "MODEL": f"configs/{config}.json",
        "TOKENIZER": "train",
        "MAX_STEPS": steps,
        "WARMUP_STEPS": "2",
        "SAVE_STEPS": steps,
        "EVAL_STEPS": steps,
        "LOGGING_STEPS": "1",
        "OUTPUT_DIR": str(folder / config),
        "PREPARED_DIR": str(folder / "data"),
    }
    subprocess.run(["bash", "pretrain.sh"], cwd=ROOT, env=os.environ | settings, check=True)
    return json.loads((folder / config / "plan.json").read_text())


def row(size: str, plan: dict) -> list[str]:
    """One line of the table."""
    (low, high), measured = plan["planned"]["seconds"], plan["measured"]
    memory, peak = plan["planned"]["memory"] / 1e6, measured["memory"] / 1e6
    config, _, steps = size.partition(":")
    inside = "yes" if low <= measured["seconds"] <= high else "no"
    middle = (low + high) / 2 / measured["seconds"]
    return [
        config, steps, f"{low:.0f} to {high:.0f} s", f"{measured['seconds']:.0f} s", inside, f"{middle:.2f}",
        f"{memory:,.0f}", f"{peak:,.0f}", f"{memory / peak:.2f}",
    ]  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="config:steps, six by default")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        plans = {size: run(size, Path(folder)) for size in options.sizes}
    table = markdown(HEADER, [row(size, plan) for size, plan in plans.items()])
    publish("The plan of a run beside what was measured", table, plans, options.output)


if __name__ == "__main__":
    main()
