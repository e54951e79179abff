"""New models with random weights, and models loaded from checkpoints."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from recipe.model.config import EMBEDDING_MULTIPLE, is_causal
from recipe.model.weights import describe_weights, has_no_head, load_weights
from recipe.system.errors import UserError

SPREAD = 0.1  # of new rows around the mean, in standard deviations of the old ones


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


def grow_vocabulary(model: PreTrainedModel, tokens: int, before: int) -> None:
    """Gives `model` (in place) embeddings for a vocabulary that grew from `before` to `tokens` tokens, padded to a
    multiple of EMBEDDING_MULTIPLE. The new rows lie around the mean of the old ones, so that a new token is about as
    likely as the average one (Hewitt, "Initializing new word embeddings for pretrained language models", 2021); weights
    that were tied stay tied."""
    model.resize_token_embeddings(tokens, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=False)
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = tables[1].weight is tables[0].weight
    with torch.no_grad():
        for table in tables[: 1 if tied else 2]:
            old, new = table.weight[:before], table.weight[before:]
            new.copy_(old.mean(0) + SPREAD * old.std(0) * torch.randn_like(new))
        if (bias := tables[1].bias) is not None:
            bias[before:] = bias[:before].mean()


def _auto_class(config: PreTrainedConfig) -> type:
    return AutoModelForCausalLM if is_causal(config) else AutoModelForMaskedLM
