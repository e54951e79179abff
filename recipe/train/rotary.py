"""The base of rotary positions by phase: a long-context phase raises that of the layers with full attention, as
ModernBERT did (Warner et al., 2024), so that positions beyond the earlier length differ from those seen before."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from recipe.system.errors import UserError
from recipe.train.phases import Phase

FULL = "full_attention"  # the layers whose base is changed


def require_rotary_positions(config: PreTrainedConfig, phases: Sequence[Phase]) -> None:
    """Raises UserError where a phase has a rope_theta and the model has no rotary positions by type of layer."""
    for number, phase in enumerate(phases, 1):
        if phase.rope_theta and FULL not in (getattr(config, "rope_parameters", None) or {}):
            raise UserError(
                f"phase {number} has rope_theta, a {config.model_type} model has no rotary positions: leave it out, or "
                "train a modernbert"
            )


def rotary_base(config: PreTrainedConfig, phases: Sequence[Phase], step: int) -> float | None:
    """The base in `step`: that of the last phase begun by then that names one, else that of `config`; None for a model
    without rotary positions."""
    named = [phase.rope_theta for phase in phases if phase.rope_theta and phase.first <= step]
    own = (getattr(config, "rope_parameters", None) or {}).get(FULL)
    return named[-1] if named else own and own["rope_theta"]


def set_rotary_base(model: PreTrainedModel, base: float) -> None:
    """Sets the base of the layers with full attention, in the config and in the buffers of the model."""
    model.config.rope_parameters[FULL]["rope_theta"] = base
    rotary = model.base_model.get_submodule("rotary_emb")
    computed = type(rotary)(model.config)
    with torch.no_grad():
        for name, buffer in rotary.named_buffers():
            buffer.copy_(computed.get_buffer(name))


class RotaryBase(TrainerCallback):
    """Sets the base of each phase before its first step; a checkpoint has the base of the step before it."""

    def __init__(self, model: PreTrainedModel, phases: Sequence[Phase]):
        self.model, self.phases = model, phases
        self.now = rotary_base(model.config, (), 0)

    def set(self, step: int) -> None:
        """Sets the base of `step`, where it isn't the present one."""
        base = rotary_base(self.model.config, self.phases, step)
        if base is not None and base != self.now:
            set_rotary_base(self.model, base)
            self.now = base

    def on_train_begin(self, args, state, control, **kwargs):
        self.set(max(0, state.global_step - 1))

    def on_step_begin(self, args, state, control, **kwargs):
        self.set(state.global_step)
