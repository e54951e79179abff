"""New models with random weights, and models loaded from checkpoints."""

from collections.abc import Callable

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from recipe.model.config import is_causal
from recipe.model.weights import describe_weights, has_no_head, load_weights
from recipe.system.errors import UserError


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A new model with random weights in fp32. Seed torch's generator first."""
    return _auto_class(config).from_config(config)


def load_model(
    name: str,
    config: PreTrainedConfig,
    log: Callable[[str], None] = print,
    *,
    new_head: bool = False,
    **hub_options,
) -> PreTrainedModel:
    """Loads a model in fp32 from a checkpoint folder or the hub.

    With `new_head`, a checkpoint without a head gets a random one. This and unused weights are reported through `log`.
    Raises UserError as `load_weights` does, and for an incomplete head.
    """
    model, drawn, left_over = load_weights(_auto_class(config), name, config, **hub_options)
    headless = has_no_head(model, drawn)
    if drawn and not (new_head and headless):
        what = "no language-model head" if headless else f"no weights for {describe_weights(drawn)}"
        raise UserError(
            f"{name} has {what}, which would be drawn at random: expected a complete checkpoint of a language model"
        )
    if drawn:
        log(f"warning: {name} has no language-model head: {describe_weights(drawn)} are drawn at random from --seed")
    if left_over:
        log(f"left out   {describe_weights(left_over)} of {name}, which this model doesn't use")
    return model


def _auto_class(config: PreTrainedConfig) -> type:
    return AutoModelForCausalLM if is_causal(config) else AutoModelForMaskedLM
