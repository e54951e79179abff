"""A checkpoint that verifies is resumed only if it holds what resuming needs; otherwise the previous one is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_trainers import forge, make_trainer

from recipe.model.checkpoints import STATE
from recipe.system.errors import UserError
from recipe.system.manifest import MANIFEST, damage
from recipe.train.resume import newest_evaluable, newest_resumable, require_resumable, require_same_engine


@pytest.fixture(scope="module")
def trained(bpe, documents, tmp_path_factory):
    """(the folder of a run with checkpoints 2, 4 and 6, its trainer)."""
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, bpe, documents)
    trainer.train()
    return folder, trainer


def weights(change):
    def harm(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return harm


def state(**changes):
    def harm(folder):
        content = json.loads((folder / STATE).read_text())
        (folder / STATE).write_text(json.dumps(content | changes))

    return harm


def ranks(*numbers):
    def harm(folder):
        for number in numbers:
            shutil.copy(folder / "rng_state.pth", folder / f"rng_state_{number}.pth")
        (folder / "rng_state.pth").unlink()

    return harm


DENSE = "roberta.encoder.layer.1.output.dense.weight"
# {kind of damage: (function that causes it, reason in the message, whether the checkpoint can still be evaluated)}
HARMS = {
    "a tensor missing": (weights(lambda t: t.pop(DENSE)), "no weights for encoder layer 1", False),
    "a tensor too many": (weights(lambda t: t.update(more=t[DENSE].clone())), "has weights for more, which", False),
    "a tensor cut": (weights(lambda t: t.update({DENSE: t[DENSE][:3].clone()})), r"has shape \[3, 32\]", False),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "its weights cannot be read", False),
    "weights of zero length": (lambda f: (f / "model.safetensors").write_bytes(b""), "weights cannot be read", False),
    "an index of nothing": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        "index.json is unre",
        False,
    ),
    "no optimizer": (lambda f: (f / "optimizer.pt").unlink(), "no optimizer.pt: it can be evaluated, not", True),
    "no schedule": (lambda f: (f / "scheduler.pt").unlink(), "it has no scheduler.pt", True),
    "half an optimizer": (
        lambda f: (f / "optimizer.pt").write_bytes(b"PK\3\4half"),
        "optimizer.pt is unreadable",
        True,
    ),
    "a list for a schedule": (lambda f: torch.save([], f / "scheduler.pt"), "scheduler.pt is not what", True),
    "no random state": (lambda f: (f / "rng_state.pth").unlink(), "it has no rng_state.pth, the random st", True),
    "an empty random state": (lambda f: (f / "rng_state.pth").write_bytes(b""), "rng_state.pth is unreadable", True),
    "one rank's state of two": (ranks(0), "it has no rng_state_1.pth, the random state of a rank", True),
    "a rank's state missing": (ranks(0, 2), "it has no rng_state_1.pth", True),
    "another step": (state(global_step=7), "trainer_state.json says step 7", True),
    "a step in words": (state(global_step="6"), "trainer_state.json says step '6'", True),
    "a history of numbers": (state(log_history=[3]), "not what a Trainer writes", True),
    "callbacks that are none": (state(stateful_callbacks=3), "not what a Trainer writes", True),
    "an unknown setting": (state(more=3), "not what a Trainer writes", True),
    "no state": (lambda f: (f / STATE).unlink(), "it has no trainer_state.json", True),
    "a state of null": (lambda f: (f / STATE).write_text("null"), "trainer_state.json holds null", True),
}


@pytest.mark.parametrize("kind", HARMS)
def test_the_previous_checkpoint_is_resumed(trained, tmp_path, kind):
    harm, reason, can_be_evaluated = HARMS[kind]
    run, trainer = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    newest, warnings = run / "checkpoint-6", []
    harm(newest)
    forge(newest)
    assert damage(newest) is None
    assert newest_resumable(run, trainer.model, False, warnings.append) == run / "checkpoint-4"
    (warning,) = warnings
    assert f"{newest} cannot be resumed (" in warning and "\n" not in warning
    with pytest.raises(UserError, match=f"cannot resume from .*checkpoint-6: .*{reason}"):
        require_resumable(str(newest), trainer.model, False, pytest.fail)
    evaluated = newest_evaluable(run, trainer.model, warnings.append)
    assert evaluated == (newest if can_be_evaluated else run / "checkpoint-4")


def test_complete_checkpoints_of_one_or_several_ranks_are_resumed(trained, tmp_path):
    run, trainer, messages = shutil.copytree(trained[0], tmp_path / "run"), trained[1], []
    assert newest_resumable(run, trainer.model, False, pytest.fail) == run / "checkpoint-6"
    assert "ranks" not in json.loads((run / "checkpoint-6" / MANIFEST).read_text())
    ranks(0, 1, 2)(run / "checkpoint-6")
    forge(run / "checkpoint-6")  # as earlier versions wrote it, whose manifests had no number of ranks
    assert newest_resumable(run, trainer.model, False, pytest.fail) == run / "checkpoint-6"
    forge(run / "checkpoint-6", ranks=3)
    assert require_resumable(str(run / "checkpoint-6"), trainer.model, False, messages.append) == run / "checkpoint-6"
    forge(run / "checkpoint-6", ranks=4)
    with pytest.raises(UserError, match=r"it has no rng_state_3\.pth"):
        require_resumable(str(run / "checkpoint-6"), trainer.model, False, messages.append)


def test_an_optimizer_of_another_model_is_a_one_line_error(trained, bpe, documents, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    optimizer = torch.load(run / "checkpoint-6" / "optimizer.pt", weights_only=True)
    optimizer["param_groups"][0]["params"].pop()
    torch.save(optimizer, run / "checkpoint-6" / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer or scheduler doesn't fit this run \(") as error:
        make_trainer(run, bpe, documents, steps=8).train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "zero", "message"),
    [
        (["optimizer.pt", "scheduler.pt"], True, "saved without DeepSpeed, now it is on"),
        (["global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], False, "saved with DeepSpeed, now it is off"),
    ],
)
def test_resuming_with_and_without_deepspeed_do_not_mix(tmp_path, files, zero, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        require_same_engine(tmp_path, zero)
