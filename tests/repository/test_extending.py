"""docs/extending.md: all of its changes together apply to a copy of the repository, and each of them is used there."""

import json
import lzma
import random
import re
import subprocess
import sys

import pytest
from documented import copy_repository
from toy import REPOSITORY

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
CHANGES = re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.M | re.S)
WORDS = [
    "a",
    "the",
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "house",
    "tree",
    "river",
    "runs",
    "sleeps",
    "is",
    "was",
    "not",
    "on",
    "small",
    "large",
]


def sentence(length: int) -> str:
    return " ".join(random.choices(WORDS, k=length))


@pytest.fixture
def extended(tmp_path):
    """A copy of the repository with every change of the page, and text to try them on."""
    folder = copy_repository(tmp_path)
    for change in CHANGES:
        subprocess.run(["git", "apply", "-"], input=change, text=True, cwd=folder, check=True)
    random.seed(0)
    with lzma.open(folder / "text.jsonl.xz", "wt") as file:
        file.writelines(json.dumps({"text": sentence(30)}) + "\n" for _ in range(400))
    for name, rows in (("boolq.jsonl", 16), ("boolq_dev.jsonl", 8)):
        examples = ({"question": sentence(5), "passage": sentence(15), "answer": n % 2 == 0} for n in range(rows))
        (folder / name).write_text("".join(json.dumps(example) + "\n" for example in examples))
    return folder


def test_the_table_counts_files_and_lines():
    counted = []
    for row in re.findall(r"^\| \[.*", PAGE, flags=re.M):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        counted.append((int(cells[1]), int(cells[3])))
    expected = [
        (change.count("--- a/"), len(re.findall(r"^\+(?!\+\+ )", text, flags=re.M)))
        for change in CHANGES
        for text in [re.sub(r"\+\+\+ b/configs/.*?(?=^---|\Z)", "", change, flags=re.M | re.S)]
    ]
    assert counted == expected and len(CHANGES) == 5


def test_every_change_of_the_page_is_used(extended):
    def python(*words):
        done = subprocess.run([sys.executable, *words], cwd=extended, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = python(
        "run_mlm.py", "--config_name", "configs/ernie_tiny.json", "--tokenizer_name", "train",
        "--vocab_size", "300", "--train_file", "text.jsonl.xz", "--max_seq_length", "32",
        "--per_device_train_batch_size", "8", "--lr_scheduler_type", "one_minus_sqrt", "--learning_rate", "1e-3",
        "--do_train", "--do_eval", "--max_steps", "4", "--logging_steps", "1", "--output_dir", "runs/x",
    )  # fmt: skip
    assert "model      ernie" in printed and "Training a wordpiece tokenizer" in printed
    log = [json.loads(line) for line in (extended / "runs" / "x" / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in log if "learning_rate" in line]
    assert rates == pytest.approx([1e-3 * (1 - (step / 4) ** 0.5) for step in range(4)])
    assert 0 <= log[-1]["eval_masked_accuracy"] <= log[-1]["eval_masked_top5"] <= 1 and "masked top5" in printed
    assert "masked top5" in (extended / "runs" / "x" / "README.md").read_text().replace("_", " ")

    (sweep,) = re.findall(r"^python (-m recipe.sweep .*)", PAGE, flags=re.M)
    python(*sweep.split(), "--max_seq_length", "48", "--num_train_epochs", "1")
    table = (extended / "runs" / "x" / "boolq" / "boolq.md").read_text()
    assert re.search(r"^\| x/checkpoint-4 \| 4 .*\| \d+\.\d", table, flags=re.M) and "BoolQ accuracy" in table
