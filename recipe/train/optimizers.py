"""Muon for the matrices of the encoder and AdamW for all other weights, as one optimizer."""

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from recipe.model.families import FAMILIES
from recipe.train.settings import MUON, muon_settings


def hidden_matrices(model: PreTrainedModel) -> dict[torch.Tensor, int]:
    """{weight: the number of matrices it holds} for the linear layers of the encoder, without embeddings and heads."""
    linear = [(name, part) for name, part in model.base_model.named_modules() if isinstance(part, nn.Linear)]
    fused = FAMILIES[model.config.model_type].fused
    return {part.weight: fused.get(name.rpartition(".")[2], 1) for name, part in linear}


class MuonPerMatrix(torch.optim.Muon):
    """Muon that orthogonalises each matrix of a fused weight separately; `parts` maps a weight to their number.

    Each is then updated as in a model with separate weights, whatever the scale of the others' gradients; as one matrix
    they would share its singular values (measured in benchmarks/NOTES.md). The momentum keeps the shape of the fused
    weight, so the format of checkpoints is plain Muon's.
    """

    def __init__(self, params, parts: dict[torch.Tensor, int], **settings):
        super().__init__(params, **settings)
        self.parts = parts

    def _init_group(self, group, *lists: list[torch.Tensor]) -> bool:
        """Fills `lists` with the group's weights, gradients and momenta: a view of each matrix of a fused weight."""
        fused: tuple[list, ...] = ([], [], [])
        is_complex = super()._init_group(group, *fused)
        for weight, *rest in zip(*fused, strict=True):
            for tensors, tensor in zip(lists, (weight, *rest), strict=True):
                tensors += tensor.chunk(self.parts[weight])
        return is_complex


class MuonWithAdamW(torch.optim.Optimizer):
    """`muon` and `adamw` as one optimizer, with one list of groups and one state to schedule and save.

    Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix. Its updates are scaled to the root mean square
    of AdamW's (`match_rms_adamw`; Liu et al., "Muon is scalable for LLM training", 2025), so that both use the same
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
            # load_state_dict replaces groups and state, so both parts get the current ones at every step.
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state
            part.step()
        return loss


class MuonFactory:
    """Makes the optimizer; the Trainer takes it in place of a class: see `transformers.trainer_optimizer`."""

    def __call__(self, model: PreTrainedModel, *, args: TrainingArguments) -> MuonWithAdamW:
        """Weight decay applies to matrices and embeddings, but not to biases and norms, as in the Trainer."""
        hidden = hidden_matrices(model)
        weights = [p for p in model.parameters() if p.requires_grad]
        rest = [p for p in weights if p not in hidden]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        muon = {"lr": args.learning_rate, "weight_decay": args.weight_decay} | muon_settings(args.optim_args)
        return MuonWithAdamW(
            MuonPerMatrix([p for p in weights if p in hidden], hidden, **muon),
            torch.optim.AdamW(
                groups,
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                fused=args.device.type in ("cpu", "cuda"),
            ),
        )
