"""Muon and AdamW as one optimizer: the weights of each, the arithmetic, and saving and loading of its state."""

import copy

import pytest
import torch
from toy import config_settings
from transformers import AutoConfig, Trainer

from recipe.model.families import MASKED
from recipe.model.loading import build_model
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.optimizers import MuonFactory, hidden_matrices
from recipe.train.settings import muon_settings


def toy(family="roberta"):
    torch.manual_seed(0)
    return build_model(AutoConfig.for_model(**config_settings(family)))


def arguments(folder, **more):
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1, "adam_beta2": 0.98}
    return PretrainArguments(output_dir=str(folder), optim="muon", use_cpu=True, **settings | more)


@pytest.mark.parametrize("family", MASKED)
def test_muon_gets_the_matrices_of_the_encoder_and_adamw_all_other_weights(tmp_path, family):
    model = toy(family)
    optimizer = MuonFactory()(model, args=arguments(tmp_path))
    names = {p: name for name, p in model.named_parameters()}
    muon, decayed, plain = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert sorted([*muon, *decayed, *plain]) == sorted(names.values())
    matrices = {"modernbert": 4, "deberta-v2": 8}.get(family, 6)  # per layer
    before = family == "electra"  # a projection of its smaller embeddings
    assert len(muon) == 2 * matrices + before and len(hidden_matrices(model)) == len(muon)
    assert all(
        name.endswith(".weight") and "emb" not in name.removesuffix("embeddings_project.weight") for name in muon
    )
    assert any("embeddings" in name for name in decayed) and not any("bias" in name for name in decayed)
    # Weight decay applies to the same weights as in the Trainer.
    expected = set(Trainer.get_decay_parameter_names(None, model)) & set(names.values())
    assert {*muon, *decayed} == expected
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]


def steps(model, optimizer, count, first=0):
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(5, 300, (2, 16), generator=generator)
        torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten()).backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (number + 1)  # as a schedule does
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def test_the_combined_optimizer_equals_its_parts_run_separately(tmp_path):
    args = arguments(tmp_path)
    together = steps(model := toy(), MuonFactory()(model, args=args), 3)
    alone = toy()
    hidden = hidden_matrices(alone)
    rest = [p for p in alone.parameters() if p not in hidden]
    muon = torch.optim.Muon(
        [p for p in alone.parameters() if p in hidden], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    decay = [{"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.1},
             {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(decay, lr=1e-2, betas=(0.9, 0.98), fused=True)

    class Both:
        param_groups = [*muon.param_groups, *adamw.param_groups]  # noqa: RUF012

        def step(self):
            muon.step(), adamw.step()

        def zero_grad(self):
            alone.zero_grad()

    for a, b in zip(together, steps(alone, Both(), 3), strict=True):
        assert torch.equal(a, b)


def fused_weights(model):
    """[(number of matrices, weight), ...] for the weights of a ModernBERT that hold several matrices."""
    return [(parts, weight) for weight, parts in hidden_matrices(model).items() if parts > 1]


def test_each_matrix_of_a_fused_weight_is_orthogonalised_separately(tmp_path):
    """Same bits as plain Muon on separate matrices; their updates have the same size, whatever that of the gradients."""
    model = toy("modernbert")
    optimizer = MuonFactory()(model, args=arguments(tmp_path, weight_decay=0.1))
    found = fused_weights(model)
    assert sorted(parts for parts, _ in found) == [2, 2, 3, 3] and not fused_weights(toy())
    apart, gradients = [], []
    for parts, weight in found:
        pieces = [torch.nn.Parameter(piece.detach().clone()) for piece in weight.chunk(parts)]
        muon = torch.optim.Muon(pieces, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        apart.append((pieces, muon))
        scale = torch.tensor([100.0**-n for n in range(parts)]).repeat_interleave(len(weight) // parts)
        gradients.append(scale[:, None] * torch.randn(weight.shape, generator=torch.Generator().manual_seed(parts)))
    for _ in range(3):
        before = [weight.detach().clone() for _, weight in found]
        for (parts, weight), (pieces, muon), gradient in zip(found, apart, gradients, strict=True):
            weight.grad = gradient.clone()
            for piece, part in zip(pieces, gradient.chunk(parts), strict=True):
                piece.grad = part.clone()
            muon.step()
        optimizer.step()
    for (parts, weight), (pieces, _), old in zip(found, apart, before, strict=True):
        assert torch.equal(weight, torch.cat(pieces))
        assert optimizer.state[weight]["momentum_buffer"].shape == weight.shape  # as a checkpoint has it
        moved = weight.detach() - old * (1 - 1e-2 * 0.1)
        sizes = [part.square().mean().sqrt().item() / 1e-2 for part in moved.chunk(parts)]
        assert sizes == pytest.approx([0.2] * parts, rel=0.2)  # of AdamW's; as one matrix the last would hardly change


def test_the_parts_of_a_fused_weight_are_in_the_models_order():
    attention = toy("modernbert").base_model.layers[0].attn
    # With zero queries attention is uniform; with zero values its output is zero.
    for part, zero_output in ((0, False), (2, True)):
        broken = copy.deepcopy(attention)
        with torch.no_grad():
            broken.Wqkv.weight.chunk(3)[part].zero_()
        rows = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
        angles = (torch.ones(1, 4, 8), torch.zeros(1, 4, 8))
        out = broken(rows, position_embeddings=angles)[0]
        assert torch.count_nonzero(out).item() == (0 if zero_output else out.numel())


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_the_state_survives_saving_and_loading(tmp_path, family):
    args = arguments(tmp_path)
    uninterrupted = steps(model := toy(family), MuonFactory()(model, args=args), 5)
    model = toy(family)
    optimizer = MuonFactory()(model, args=args)
    steps(model, optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = copy.deepcopy(model)
    fresh = MuonFactory()(resumed, args=args)
    fresh.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for a, b in zip(uninterrupted, steps(resumed, fresh, 2, first=3), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optim_args": "momentum=high"},
            "optim_args momentum=high beside --optim muon, expected some of lr, momentum",
        ),
        ({"optim_args": "beta=1"}, "optim_args beta=1"),
        ({"optim_args": "momentum=-1"}, "momentum"),
        ({"optim_args": "adjust_lr_fn=none"}, "adjust_lr_fn=none"),
        ({"deepspeed": "ds_config/zero2_bf16.json", "do_train": True}, "--optim muon beside --deepspeed"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, **settings)


def test_muon_settings():
    assert muon_settings("lr=0.02, momentum=0.9,ns_steps=6,adjust_lr_fn=original") == {
        "lr": 0.02, "momentum": 0.9, "ns_steps": 6, "adjust_lr_fn": "original"
    }  # fmt: skip
