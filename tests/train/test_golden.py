"""The losses of twenty steps of a toy run equal those in golden.json: a change of them is a change of every run.

They are computed in float64, so that processors agree. To renew the file:
PYTHONPATH=.:tests/helpers python tests/train/test_golden.py
"""

import json
import sys
from pathlib import Path

import pytest
from toy import toy_documents
from toy_trainers import Recorder, make_trainer

from recipe.data.tokenizer import train_tokenizer

GOLDEN = Path(__file__).with_name("golden.json")


def losses(folder: Path) -> list[float]:
    documents = toy_documents()
    tokenizer = train_tokenizer(lambda: documents, kind="bpe", vocab_size=320, min_frequency=1)
    recorder = Recorder()
    trainer = make_trainer(
        folder, tokenizer, documents, steps=20, accumulation=2, callbacks=[recorder], save_strategy="no", warmup_steps=5
    )
    trainer.model.double()
    trainer.train()
    return [log["loss"] for log in recorder.logs if "loss" in log]


def test_losses_equal_the_committed_ones(tmp_path):
    assert losses(tmp_path) == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-6)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(losses(Path(folder)), indent=1) + "\n")
    sys.stdout.write(GOLDEN.read_text())
