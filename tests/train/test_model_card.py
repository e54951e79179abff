"""recipe.train.model_card: the card of every checkpoint, of a real run; its code runs, and a user's own card stays."""

import json
import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from toy import pretrain_command

from recipe.system.manifest import damage
from recipe.train.model_card import CARD, RUN_MARK, card_of, write_run_cards


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    command, environment = pretrain_command(
        folder, "run", "--license", "apache-2.0", "--language", "en", MAX_STEPS=4, WARMUP_STEPS=1, SAVE_STEPS=2,
        EVAL_STEPS=2, NPROC_PER_NODE=1,
    )  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_each_checkpoint_and_the_run_have_a_card(run):
    for title in ("run", "run/checkpoint-2", "run/checkpoint-4"):
        folder = run.parent / title
        card = ModelCard.load(folder / CARD)
        assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("apache-2.0", "en", "fill-mask")
        assert card.data.library_name == "transformers" and card.data.datasets is None  # the text is local
        metrics = {result.metric_name: result.metric_value for result in card.data.eval_results}
        step = 2 if folder.name == "checkpoint-2" else 4
        logged = [json.loads(line) for line in (run / "log.jsonl").open()]
        loss = next(line["eval_loss"] for line in logged if line["step"] == step and "eval_loss" in line)
        assert metrics["loss in nats per predicted token"] == pytest.approx(loss, abs=1e-4)
        assert f"# {title}\n" in card.content and f"| {step} of 4 |" in card.content
        for said in (
            "A RoBERTa encoder with",
            "| tokens per step | 512 |",
            "| masking rate | 15% |",
        ):
            assert said in card.content
        assert str(run.parent) not in card.content  # no path of this machine
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 32
    assert damage(run / "checkpoint-2") is None


def test_the_code_of_a_card_runs(run):
    code = re.search(r"```python\n(.*?)```", (run / CARD).read_text(), re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", code], cwd=run.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "'token_str'" in done.stdout, done.stderr


def test_a_card_of_the_users_stays(run):
    own = run / "checkpoint-4" / CARD
    written = own.read_text()
    own.write_text(written.replace(RUN_MARK, "").replace("A RoBERTa", "My own RoBERTa"))
    (run / "checkpoint-2" / CARD).unlink()
    write_run_cards(run)
    assert "My own RoBERTa" in own.read_text()
    assert (run / "checkpoint-2" / CARD).read_text() == card_of(run / "checkpoint-2")  # a missing one is written


def test_a_corpus_of_the_hub_is_named(run):
    record = json.loads((run / "run.json").read_text())
    place = record["command"].index("--dataset_name") + 1
    kept = (run / "run.json").read_text()
    record["command"][place] = "nyu-mll/blimp"
    (run / "run.json").write_text(json.dumps(record))
    try:
        assert "datasets:\n- nyu-mll/blimp\n" in card_of(run)
    finally:
        (run / "run.json").write_text(kept)
