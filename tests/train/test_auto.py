"""recipe.train.auto: settings that fit a text and a budget of time; recipe.train.micro_batch; what pretrain.sh makes of
both."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toy import REPOSITORY, toy_documents

from recipe.data.corpus import open_corpus
from recipe.train import auto
from recipe.train.auto import MOST_EPOCHS, MOST_STEPS, TOKENS_PER_WEIGHT, AutoArguments, Choice, Shape, choose
from recipe.train.micro_batch import SHARE, largest_micro_batch

SHAPE = Shape(8192, 128, 3e-3)


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """choose() among models of these (weights, tokens per second), as if they had been measured."""

    def chosen(models, hours, corpus, **given):
        for name in auto.FLAGS.values():
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        found = [Choice(f"{weights}.json", SHAPE, weights, speed) for weights, speed in models]
        monkeypatch.setattr(auto, "choices", lambda *_: iter(found))
        return choose(AutoArguments(hours=hours), corpus, tmp_path)

    return chosen


MODELS = [(400_000, 20_000), (3_000_000, 5_000), (12_000_000, 1_000)]


@pytest.mark.parametrize(
    ("hours", "corpus", "model"),
    [
        (0.1, 1e9, "400000.json"),  # 7.2 M tokens: too few even for the smallest, which is taken nevertheless
        (3, 1e9, "400000.json"),  # 216 M, and 54 M for the next one, which needs 60 M
        (3.5, 1e9, "3000000.json"),
        (1_000, 1e9, "12000000.json"),
        (1_000, 1e5, "400000.json"),  # 40 passes over a small text are not enough for more
    ],
)
def test_the_largest_model_that_sees_enough(settings, hours, corpus, model):
    assert settings(MODELS, hours, corpus)["MODEL"] == model


def test_steps_batches_and_epochs(settings):
    short, long, small = settings(MODELS, 0.2, 1e9), settings(MODELS, 3, 1e9), settings(MODELS, 10, 2e6)
    assert short["GLOBAL_BATCH_SIZE"] == 32 and short["MAX_HOURS"] == "0.2" and short["DROPOUT"] == 0
    seen = 20_000 * 3 * 3600
    assert long["GLOBAL_BATCH_SIZE"] == 256 and seen / (256 * 128) < MOST_STEPS < seen / (128 * 128)
    # 2 M tokens: ended by 40 epochs and not by time, with dropout, in batches that the text has 50 of.
    assert small["MAX_STEPS"] * small["GLOBAL_BATCH_SIZE"] * 128 == pytest.approx(MOST_EPOCHS * 2e6, rel=0.01)
    assert small["DROPOUT"] == 0.1
    assert settings(MODELS, 1, 50_000)["GLOBAL_BATCH_SIZE"] == 4 and 50_000 / (4 * 128) >= 50
    assert all(value["SAVE_STEPS"] == value["EVAL_STEPS"] >= 1 for value in (short, long, small))
    assert TOKENS_PER_WEIGHT == 20


def test_what_is_set_already_is_kept(settings):
    found = settings(MODELS, 3, 1e9, SEQ_LENGTH="256", GLOBAL_BATCH_SIZE="64")
    assert (found["SEQ_LENGTH"], found["GLOBAL_BATCH_SIZE"]) == (256, 64)
    assert found["MAX_STEPS"] == int(MOST_EPOCHS * 1e9 / (64 * 256))


def test_the_text_is_counted_by_its_bytes(tmp_path):
    text = "\n\n".join(toy_documents(400))
    (tmp_path / "plain.txt").write_text(text)
    plain = auto.corpus_tokens(open_corpus(str(tmp_path / "plain.txt")))
    assert plain == pytest.approx(len(text) / 4, rel=0.02)
    subprocess.run(["gzip", "-k", tmp_path / "plain.txt"], check=True)
    assert auto.corpus_tokens(open_corpus(str(tmp_path / "plain.txt.gz"))) == pytest.approx(plain, rel=0.02)


def test_the_micro_batch_divides_its_share_and_fits():
    for share, fitting, expected in ((1024, 100, 64), (96, 40, 32), (7, 3, 1), (8, 0.5, 1), (4096, 1e9, 256)):
        memory = (fitting * 1e6 + 5e6) / SHARE
        assert largest_micro_batch(share, memory, 5e6, 1e6) == expected


def typed(folder: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("MODEL", "TOKENIZER", "RANK")}
    environment |= {"PYTHON": sys.executable, "PREPARED_DIR": f"{folder}/data", "OUTPUT_DIR": f"{folder}/run"}
    return subprocess.run(
        ["bash", "pretrain.sh"],
        cwd=REPOSITORY,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_text_of_ones_own_is_trained_on_by_settings_that_fit(tmp_path):
    """HOURS=... DATASET=... bash pretrain.sh: the plan, the run, and the same settings when it goes on."""
    (tmp_path / "text.txt").write_text("\n\n".join(toy_documents(3_000)))
    mine = {"DATASET": f"{tmp_path}/text.txt", "HOURS": "0.002", "VOCAB_SIZE": "300"}
    planned = typed(tmp_path, DRY_RUN="json", **mine)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout[planned.stdout.index("{") :])
    assert 0 < plan["epochs"] <= MOST_EPOCHS and not (tmp_path / "run").exists()
    done = typed(tmp_path, **mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "auto       chosen: configs/modernbert_tiny.json" in done.stderr and "time       0.002 hours" in done.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    command = record["command"]
    assert command[command.index("--mlm_probability") + 1] == "0.3" and record["meaning"]["max_hours"] == 0.002
    again = typed(tmp_path, **mine)
    assert again.returncode == 0 and "is done" in again.stdout, again.stdout + again.stderr
    assert re.search(r"auto       the settings that .*/run was begun with", again.stderr)
