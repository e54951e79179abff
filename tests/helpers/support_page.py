#!/usr/bin/env python3
"""Writes docs/support.md from the markers `covers` of the tests, as pytest collects them.

python tests/helpers/support_page.py             writes the page
python tests/helpers/support_page.py --print     prints it
"""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs" / "support.md"
TEXT = """# What is supported, and how that is tested

Generated from the tests' markers by `python tests/helpers/support_page.py`; a test compares the two. Each cell is a test
that trains the family with the objective and engine on a small model, stops after the second of four steps, resumes, and
finds the same losses and final weights, to the bit.

| in a cell | means |
|---|---|
| default | tested by `bash test.sh` |
| slow | tested by `bash test.sh -m slow tests/scripts/test_support.py`: two processes |
| GPU | tested by the same command where there are GPUs, otherwise skipped: one GPU for one process, two for the others |
| – | there is no such test |

{tables}

The causal form of ModernBERT is transformers' ModernBertDecoder. The engines are those of
[distributed.md](distributed.md): DDP and ZeRO run with gloo on CPUs and NCCL on GPUs. The GPU tests have not been run yet:
no GPU was at hand.

Beyond this table: other DeepSpeed settings, another number of processes on resume, two hosts, SLURM, Ray and XLA, with
what was run and what came out, are in [results/engines.md](../results/engines.md). Linux is what everything is run on.
The oldest versions that `pyproject.toml` allows are tried by `bash tests/oldest/run.sh`.
"""


class Cells:
    """A pytest plugin that collects {device: {(family, objective): {engine: how it is tested}}}, in the tests' order."""

    def __init__(self):
        self.found: dict[str, dict[tuple[str, str], dict[str, str]]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("covers"):
                family, objective, engine, device = marker.args
                how = "GPU" if device == "GPU" else "slow" if item.get_closest_marker("slow") else "default"
                self.found.setdefault(device, {}).setdefault((family, objective), {})[engine] = how


def page() -> str:
    """The text of docs/support.md."""
    cells = Cells()
    files = [str(f) for f in sorted((REPOSITORY / "tests").rglob("test_*.py")) if "mark.covers(" in f.read_text()]
    code = pytest.main(["--collect-only", "-qq", "--no-summary", "-m", "", "-p", "no:cacheprovider", *files], [cells])
    if code:
        raise RuntimeError(f"pytest could not collect {', '.join(files)}: exit code {code}")
    tables = []
    for device, rows in cells.found.items():
        engines = list(dict.fromkeys(engine for cell in rows.values() for engine in cell))
        tables.append(f"## On a {device}\n")
        tables.append(f"| family | objective | {' | '.join(engines)} |\n|---|---|{'---|' * len(engines)}")
        for (family, objective), row in sorted(rows.items(), key=lambda cell: cell[0][0]):
            tables.append(f"| {family} | {objective} | {' | '.join(row.get(engine, '–') for engine in engines)} |")
        tables.append("")
    return TEXT.format(tables="\n".join(tables).strip())


if __name__ == "__main__":
    written = page()
    if "--print" in sys.argv:
        print(written, end="")
    else:
        PAGE.write_text(written)
