"""Muon for the hidden matrices, AdamW for everything else, as one optimizer."""

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from recipe.model.families import FAMILIES
from recipe.system.errors import UserError

MUON = "muon"
# What --optim_args may say of Muon: the names of torch.optim.Muon's own settings, and lr, its peak learning rate.
MUON_SETTINGS = {"lr": float, "momentum": float, "ns_steps": int, "adjust_lr_fn": str}


def muon_settings(optim_args: str | None) -> dict:
    """Reads "momentum=0.9,ns_steps=5" into settings of torch.optim.Muon. Raises UserError for what isn't one."""
    settings = {"adjust_lr_fn": "match_rms_adamw"}
    for part in filter(None, (optim_args or "").replace(" ", "").split(",")):
        name, _, value = part.partition("=")
        try:
            settings[name] = MUON_SETTINGS[name](value)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"found --optim_args {part} beside --optim muon, expected some of {', '.join(MUON_SETTINGS)}, as in "
                "momentum=0.95,ns_steps=5"
            ) from error
    try:
        torch.optim.Muon([nn.Parameter(torch.zeros(1, 1))], **settings)
    except ValueError as error:
        raise UserError(f"found --optim_args {optim_args} beside --optim muon: {error}") from error
    return settings


def hidden_matrices(model: PreTrainedModel) -> dict[nn.Parameter, int]:
    """The weights of the linear layers inside the encoder (no embedding, no part of a head, no bias), each with the
    number of matrices that it holds."""
    linear = [(name, part) for name, part in model.base_model.named_modules() if isinstance(part, nn.Linear)]
    fused = FAMILIES[model.config.model_type].fused
    return {part.weight: fused.get(name.rpartition(".")[2], 1) for name, part in linear}


class MuonOfFused(torch.optim.Muon):
    """Muon that orthogonalises each matrix of a fused weight by itself; `parts` has their number for each weight.

    Each is then updated as in a model that keeps them apart, whatever the sizes of the others' gradients; taken as one
    matrix, they share its singular values (figures in benchmarks/NOTES.md). The momentum keeps the shape of the whole
    weight, so that checkpoints are as they were.
    """

    def __init__(self, params, parts: dict[nn.Parameter, int], **settings):
        super().__init__(params, **settings)
        self.parts = parts

    def _init_group(self, group, *lists: list[torch.Tensor]) -> bool:
        """The weights of a group, their gradients and momenta: views of each matrix in place of a fused one."""
        whole: tuple[list, ...] = ([], [], [])
        is_complex = super()._init_group(group, *whole)
        for weight, *rest in zip(*whole, strict=True):
            for tensors, tensor in zip(lists, (weight, *rest), strict=True):
                tensors += tensor.chunk(self.parts[weight])
        return is_complex


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps `muon` and `adamw` together; their groups and states are kept, scheduled and saved as those of one.

    Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix. Its updates are scaled to the root mean square
    of AdamW's (`match_rms_adamw`; Liu et al., "Muon is scalable for LLM training", 2025), so that both go by one
    learning rate.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.parts = {MUON: muon, "adamw": adamw}
        groups = [group | {"part": name} for name, part in self.parts.items() for group in part.param_groups]
        super().__init__(groups, defaults={"lr": adamw.defaults["lr"]})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for name, part in self.parts.items():
            # A state that was loaded comes in new groups: the parts work on those of the whole.
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()
        return loss


class MuonFactory:
    """What the Trainer calls in place of an optimizer class: see `transformers.trainer_optimizer`."""

    def __call__(self, model: PreTrainedModel, *, args: TrainingArguments) -> MuonWithAdamW:
        """Weight decay applies to matrices and embeddings, as the Trainer does it; to no bias and no norm."""
        hidden = hidden_matrices(model)
        weights = [p for p in model.parameters() if p.requires_grad]
        rest = [p for p in weights if p not in hidden]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        muon = {"lr": args.learning_rate, "weight_decay": args.weight_decay} | muon_settings(args.optim_args)
        return MuonWithAdamW(
            MuonOfFused([p for p in weights if p in hidden], hidden, **muon),
            torch.optim.AdamW(
                groups,
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                fused=args.device.type in ("cpu", "cuda"),
            ),
        )
