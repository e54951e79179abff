"""Models with fresh weights, and models loaded from checkpoints."""

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
    """A new model with freshly drawn weights, in fp32; seed torch's generator before."""
    return _auto_class(config).from_config(config)


def load_model(
    name: str,
    config: PreTrainedConfig,
    say: Callable[[str], None] = print,
    *,
    new_head: bool = False,
    **hub_options,
) -> PreTrainedModel:
    """The model of a checkpoint folder or hub id, in fp32. Where it has no head at all, `new_head` has one drawn, which
    is said, as is what was left out. Raises UserError as `load_weights` does, and for a head that is not whole."""
    model, drawn, left_over = load_weights(_auto_class(config), name, config, **hub_options)
    headless = has_no_head(model, drawn)
    if drawn and not (new_head and headless):
        what = "no language-model head" if headless else f"no weights for {describe_weights(drawn)}"
        raise UserError(
            f"{name} has {what}, which would be drawn at random: expected a whole checkpoint of a language model"
        )
    if drawn:
        say(f"warning: {name} has no language-model head: {describe_weights(drawn)} are drawn afresh from --seed")
    if left_over:
        say(f"left out   {describe_weights(left_over)} of {name}, which this model has no use for")
    return model


def _auto_class(config: PreTrainedConfig) -> type:
    return AutoModelForCausalLM if is_causal(config) else AutoModelForMaskedLM
