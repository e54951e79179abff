"""DeepSpeed ZeRO with the files of ds_config/ on one and two CPU ranks: invariant 1 at every stage, exact resume, plain
fp32 checkpoints, and resuming on another number of ranks."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from toy import REPOSITORY
from toy_trainers import Recorder, make_trainer
from transformers import AutoModelForMaskedLM

from recipe.model.checkpoints import checkpoints
from recipe.system.manifest import damage
from recipe.train.trainer import NonFiniteError

STEPS = 6
DEFAULT = "zero2_bf16"
CONFIGS = [
    name if name == DEFAULT else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(path.stem for path in (REPOSITORY / "ds_config").glob("*.json"))
]


def ds_config(name: str, bf16: bool = True) -> dict:
    config = json.loads((REPOSITORY / "ds_config" / f"{name}.json").read_text())
    if not bf16:
        del config["bf16"]
    return config


@pytest.fixture
def train(bpe, documents, tmp_path):
    """train(folder, ranks, config, resume) trains in folder/run with 32 sequences per step; returns rank 0's logs."""

    def make(folder, ranks=1, config=DEFAULT, bf16=True, resume=None, **more):
        def work(rank):
            recorder = Recorder()
            settings = {
                "micro": 8,
                "accumulation": 4 // ranks,
                "warmup_steps": 4,
                "weight_decay": 0.1,
                "dataloader_num_workers": 0,
                **more,
            }
            trainer = make_trainer(
                folder / "run",
                bpe,
                documents,
                steps=STEPS,
                callbacks=[recorder],
                bf16=bf16,
                deepspeed=ds_config(config, bf16),
                **settings,
            )
            trainer.train(resume_from_checkpoint=resume and str(resume))
            assert trainer.deepspeed is not None and trainer.deepspeed.zero_optimization()
            return [
                [log[name] for name in ("step", "loss", "grad_norm", "learning_rate")]
                for log in recorder.logs
                if "loss" in log
            ]

        return run_ranks(ranks, work, folder / f"ranks-{ranks}{'-again' * bool(resume)}")[0]

    return make


@pytest.fixture
def alone(bpe, documents, tmp_path):
    """(step, loss, gradient norm, learning rate) of the same run in one process, in fp32, without DeepSpeed."""
    recorder = Recorder()
    make_trainer(
        tmp_path / "alone", bpe, documents, micro=32, warmup_steps=4, weight_decay=0.1, callbacks=[recorder]
    ).train()
    return [[log[n] for n in ("step", "loss", "grad_norm", "learning_rate")] for log in recorder.logs if "loss" in log]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradient_norm_equal_those_without_deepspeed_in_fp32(train, alone, tmp_path, config, ranks):
    found = train(tmp_path / "zero", ranks, config, bf16=False)
    assert len(found) == STEPS
    for one, other in zip(alone, found, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def digest(checkpoint: Path) -> str:
    """sha256 of the weights, master weights and moments of a ZeRO checkpoint."""
    found = hashlib.sha256((checkpoint / "model.safetensors").read_bytes())

    def take(value):
        if isinstance(value, torch.Tensor):
            found.update(value.detach().float().numpy().tobytes())
        elif isinstance(value, dict):
            for name in sorted(value, key=str):
                take(value[name])
        elif isinstance(value, (list, tuple)):
            for item in value:
                take(item)

    for file in sorted(checkpoint.glob("global_step*/*_optim_states.pt")):
        take(torch.load(file, weights_only=False)["optimizer_state_dict"])
    return found.hexdigest()


@pytest.mark.parametrize("ranks", [1, 2])
def test_zero2_bf16_resumes_to_the_same_bits(train, alone, tmp_path, ranks):
    uninterrupted = train(tmp_path / "zero", ranks, dropout=0.1)
    assert [rate for *_, rate in uninterrupted] == pytest.approx(
        [0, 0.0025, 0.005, 0.0075, 0.01, 0.005]
    )  # linear warm-up
    run = tmp_path / "zero" / "run"
    before = digest(run / "checkpoint-6")
    assert [damage(checkpoint) for checkpoint in checkpoints(run)] == [None] * 3
    assert train(tmp_path / "zero", ranks, resume=run / "checkpoint-4", dropout=0.1) == uninterrupted[4:]
    assert digest(run / "checkpoint-6") == before


@pytest.mark.parametrize("config", CONFIGS)
def test_a_checkpoint_holds_the_fp32_master_weights(train, alone, tmp_path, config):
    found = train(tmp_path / "zero", 2, config)
    for one, other in zip(alone, found, strict=True):
        assert other[1] == pytest.approx(one[1], abs=0.02)  # bf16 rounding
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    saved = tmp_path / "zero" / "run" / "checkpoint-6"
    weights = load_file(saved / "model.safetensors")
    for name, expected in get_fp32_state_dict_from_zero_checkpoint(str(saved)).items():
        assert name not in weights or torch.equal(weights[name], expected)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    model = AutoModelForMaskedLM.from_pretrained(saved)
    assert model.dtype == torch.float32 and torch.equal(
        model.state_dict()[name], weights.get(name, model.state_dict()[name])
    )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_resumes_on_another_number_of_ranks(train, alone, tmp_path, config, before, after):
    first = train(tmp_path / "zero", before, config, bf16=False)
    checkpoint = tmp_path / "zero" / "run" / "checkpoint-4"
    found = train(tmp_path / "zero", after, config, bf16=False, resume=checkpoint)
    assert damage(checkpoint) is None
    for one, other in zip(first[4:], found, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def test_a_non_finite_gradient_stops_every_rank_before_a_save(tmp_path, bpe, documents):
    def work(rank):
        trainer = make_trainer(
            tmp_path / "run", bpe, documents, micro=8, accumulation=2, bf16=True, deepspeed=ds_config(DEFAULT)
        )
        training_step = trainer.training_step

        def poisoned(model, inputs, num_items_in_batch=None):
            loss = training_step(model, inputs, num_items_in_batch)
            if trainer.state.global_step == 3 and rank == 1:
                next(trainer.model.parameters()).data.fill_(float("nan"))
            return loss

        trainer.training_step = poisoned
        try:
            trainer.train()
        except NonFiniteError as error:
            return str(error)

    for message in run_ranks(2, work, tmp_path / "ranks"):
        assert "step 5" in message or "step 4" in message
        assert "checkpoint-2" in message or "checkpoint-4" in message
    for checkpoint in checkpoints(tmp_path / "run"):
        weights = load_file(checkpoint / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())
