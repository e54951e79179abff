#!/usr/bin/env python3
"""Peak memory and time of train_tokenizer.py against the size of the corpus, one process per row.

    python benchmarks/tokenizer.py --dataset_name path/to/wiki_books
    python benchmarks/tokenizer.py --dataset_name my_corpus/ --models bpe --millions 10 100 --vocab_size 30000

The peak is the process's own highest resident memory, imports included; the first row is the imports alone.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tokenizers

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--models", nargs="+", default=["bpe", "wordpiece", "unigram"])
    parser.add_argument("--millions", nargs="+", type=int, default=[10, 40, 160], help="characters to learn from")
    parser.add_argument("--vocab_size", type=int, default=8192)
    options = parser.parse_args()

    print(
        f"{options.dataset_name}, {options.vocab_size} tokens, {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}, tokenizers {tokenizers.__version__}\n"
    )
    print("| model | million characters | peak MB | MB above the imports | s |\n|---|---|---|---|---|")
    imports, seconds = measured([sys.executable, "-c", "import train_tokenizer"])
    print(f"| imports alone | 0 | {imports:,.0f} | 0 | {seconds:.0f} |", flush=True)
    for model in options.models:
        for millions in options.millions:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "train_tokenizer.py", "--dataset_name", options.dataset_name]
                command += ["--output_dir", folder, "--model", model, "--vocab_size", str(options.vocab_size)]
                peak, seconds = measured([*command, "--max_characters", str(millions * 1_000_000)])
            print(f"| {model} | {millions} | {peak:,.0f} | {peak - imports:,.0f} | {seconds:.0f} |", flush=True)


def measured(command: list[str]) -> tuple[float, float]:
    """(peak resident MB, wall seconds) of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kilobytes / 1024, time.perf_counter() - began


if __name__ == "__main__":
    main()
