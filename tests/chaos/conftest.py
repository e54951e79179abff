"""The test bench that the suite shares, and the table of results that it prints at the end."""

import datetime
import json
import os
import platform
from pathlib import Path

import pytest
from harness import Bench
from toy import config_settings, toy_documents

ROWS: dict[str, tuple[str, str]] = {}


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    text, config = folder / "corpus.txt", folder / "roberta.json"
    text.write_text("\n\n".join(toy_documents(220)))
    settings = config_settings("roberta", 400, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    config.write_text(json.dumps(settings))
    return Bench(folder, text, config)


@pytest.fixture
def record():
    """record(id, what, figure): a row of the table."""

    def add(number: str, what: str, figure: str) -> None:
        ROWS[number] = (what, figure)

    return add


def pytest_terminal_summary(terminalreporter):
    if not ROWS:
        return
    lines = [f"| {number} | {what} | {figure} |" for number, (what, figure) in sorted(ROWS.items(), key=_by_number)]
    table = "\n".join(["| # | test | result |", "|---|---|---|", *lines])
    terminalreporter.write_line(table)
    if target := os.environ.get("RELIABILITY_TABLE"):
        head = (
            "# Reliability, measured\n\n"
            f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}. "
            "Command: `bash tests/chaos/run.sh`.\n\n"
        )
        Path(target).write_text(head + table + "\n")


def _by_number(row) -> int:
    return int("".join(c for c in row[0] if c.isdigit()))
