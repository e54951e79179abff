"""recipe.average, recipe.train.ema: means of checkpoints and the moving average of a run, to the bit; what is refused."""

import json
import shutil
import sys

import pytest
import torch
from glue_toys import sweep_here, toy_checkpoint, toy_run, write_glue
from safetensors.torch import load_file, save_file
from toy_trainers import make_trainer, train_and_kill
from transformers import AutoModelForMaskedLM, TrainerCallback

from recipe.average import averaging
from recipe.average.averaging import mean_of
from recipe.cli.parser import parse
from recipe.finetune.results import read_results
from recipe.finetune.starting_point import progress_of
from recipe.model.checkpoints import checkpoints
from recipe.system.errors import UserError
from recipe.system.manifest import damage
from recipe.train.arguments import PretrainArguments
from recipe.train.ema import EMA


@pytest.fixture
def run(tmp_path):
    return toy_run(tmp_path / "toy", steps=(10, 20, 30, 40))


@pytest.fixture
def average(monkeypatch, capsys):
    def main(*argv):
        monkeypatch.setattr(sys, "argv", ["recipe.average", *map(str, argv)])
        assert averaging.main() == 0
        return capsys.readouterr().out

    return main


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_mean_of_the_last_checkpoints(run, average):
    said = average(run, "--last", "3")
    (made,) = checkpoints(run.parent / "toy-last3")
    assert made.name == "checkpoint-40" and damage(made) is None
    assert f"{made}: its weights are the mean of those of checkpoint-20, checkpoint-30 and checkpoint-40" in said
    parts = [weights(run / f"checkpoint-{step}") for step in (20, 30, 40)]
    found = weights(made)
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        mean = torch.stack([part[name].double() for part in parts]).mean(0)
        assert tensor.dtype == torch.float32 and (tensor.double() - mean).abs().max() <= 1e-7
    AutoModelForMaskedLM.from_pretrained(made)
    card = (made / "README.md").read_text()
    assert "Its weights are the mean of those of checkpoint-20, checkpoint-30 and checkpoint-40." in card
    assert "5.5" not in card, "the loss of another checkpoint"
    assert progress_of(made) == progress_of(run / "checkpoint-40") == (40, 40 * 64)
    again = (made / "model.safetensors").read_bytes()
    average(run, "--last", "3")
    assert (made / "model.safetensors").read_bytes() == again


def test_an_average_at_each_checkpoint_is_scored_by_a_sweep(run, average, monkeypatch, tmp_path):
    average(run, "--last", "2", "--each")
    made = run.parent / "toy-last2"
    assert [folder.name for folder in checkpoints(made)] == ["checkpoint-20", "checkpoint-30", "checkpoint-40"]
    glue = write_glue(tmp_path / "glue", rows=16, dev=8)
    do = sweep_here(monkeypatch)
    code, _ = do(["--runs", str(run), str(made), "--newest", "true", "--tasks", "rte", "--glue_data", str(glue),
                  "--prepared_dir", str(tmp_path / "data"), "--max_seq_length", "48", "--num_train_epochs", "1",
                  "--use_cpu"])  # fmt: skip
    scored = {record["checkpoint"]["name"]: record["checkpoint"] for record in read_results(run / "glue")}
    assert code == 0 and scored.keys() == {"toy/checkpoint-40", "toy-last2/checkpoint-40"}
    assert scored["toy-last2/checkpoint-40"]["tokens_seen"] == 40 * 64
    assert "toy-last2/checkpoint-40" in (run / "glue" / "glue.md").read_text()


def test_whole_numbers_are_the_last_one_s_and_precision_stays(tmp_path):
    files = []
    for number in (1, 2):
        file = tmp_path / f"{number}.safetensors"
        save_file({"a": torch.tensor([number, 3.0]).bfloat16(), "ids": torch.tensor([number])}, file)
        files.append(file)
    found = mean_of(tuple(files))
    assert found["a"].tolist() == [1.5, 3.0] and found["a"].dtype == torch.bfloat16 and found["ids"].tolist() == [2]


def test_mistakes_are_one_line_and_leave_nothing(run, average, tmp_path):
    def refused(message, *argv):
        with pytest.raises(UserError, match=message) as error:
            average(*argv)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == there

    other = toy_checkpoint(tmp_path / "wider", 10, hidden_size=32)
    (tmp_path / "empty").mkdir()
    there = sorted(path.name for path in tmp_path.iterdir())
    refused(r"found no checkpoints in .*nothing: expected the folder of a run", tmp_path / "nothing")
    refused(r"found no checkpoints in .*empty", tmp_path / "empty")
    refused(r"found 4 checkpoints in .*toy, expected 5 or more: lower --last", run)
    refused(r"found --last 1, expected 2", run, "--last", "1")
    refused(r"found .*checkpoint-10 alone, expected two", run / "checkpoint-10")
    refused(r"found --each and checkpoints", run / "checkpoint-10", run / "checkpoint-20", "--each")
    refused(r"found several checkpoints and no --output_dir", run / "checkpoint-10", run / "checkpoint-20")
    refused(r"checkpoint-10 has hidden_size 32, .* has 16|has hidden_size 16, .* has 32: expected checkpoints of one run",
            other, run / "checkpoint-10", "--output_dir", tmp_path / "x")  # fmt: skip
    refused(r"found no ema.safetensors in .*checkpoint-40: train with --ema_decay", run, "--ema")
    refused(r"found .*toy as the run and as where its averages go", run, "--last", "2", "--output_dir", run)
    (run / "checkpoint-30" / "config.json").write_text("{}")
    refused(r"checkpoint-30 is damaged or incomplete: .*: leave it out, or lower --last", run, "--last", "2")


class Watch(TrainerCallback):
    """The weights after each step, and their moving average, computed anew in fp64."""

    def __init__(self, decay):
        self.decay, self.average = decay, None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.average = {name: p.detach().double().clone() for name, p in model.named_parameters()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, parameter in model.named_parameters():
            self.average[name] = decay * self.average[name] + (1 - decay) * parameter.detach().double()


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_the_moving_average_is_exact_and_killed_and_resumed_the_same(tmp_path, bpe, documents, family, average):
    options = {"family": family, "steps": 8, "dropout": 0.1, "ema_decay": 0.5}
    watch = Watch(0.5)
    make_trainer(tmp_path / "whole", bpe, documents, callbacks=[watch], **options).train()
    last = tmp_path / "whole" / "checkpoint-8"
    saved = load_file(last / EMA)
    assert saved.keys() == weights(last).keys()
    for name, tensor in watch.average.items():
        assert saved[name].dtype == torch.float32
        torch.testing.assert_close(saved[name].double(), tensor, rtol=0, atol=1e-6)
    train_and_kill(tmp_path / "killed", bpe, documents, (3, 7), **options)
    assert (tmp_path / "killed" / "checkpoint-8" / EMA).read_bytes() == (last / EMA).read_bytes()
    make_trainer(tmp_path / "plain", bpe, documents, **options | {"ema_decay": None}).train()
    plain = tmp_path / "plain" / "checkpoint-8"
    assert (plain / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    average(tmp_path / "whole", "--ema")
    made = tmp_path / "whole-ema" / "checkpoint-8"
    assert (made / "model.safetensors").read_bytes() == (last / EMA).read_bytes()
    AutoModelForMaskedLM.from_pretrained(made)
    assert (
        "exponential moving average of those up to checkpoint-8"
        in json.loads((made / "average.json").read_text())["sentence"]
    )


def test_a_run_without_an_average_is_not_continued_with_one(tmp_path, bpe, documents):
    make_trainer(tmp_path / "run", bpe, documents, steps=2).train()
    later = make_trainer(tmp_path / "run", bpe, documents, steps=4, ema_decay=0.9)
    with pytest.raises(UserError, match=r"checkpoint-2 has no ema.safetensors, the moving average of its run"):
        later.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=r"found --ema_decay 1.5, expected"):
        parse((PretrainArguments,), ["--output_dir", str(tmp_path / "run"), "--ema_decay", "1.5", "--use_cpu"])
