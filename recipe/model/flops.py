"""Floating-point operations per token in a training step."""

from torch import nn
from transformers import PreTrainedModel


def flops_per_token(model: PreTrainedModel, length: int, predicted_per_block: int) -> float:
    """Floating-point operations per input token of a training step, forward and backward.

    Six per weight of every matrix (Kaplan et al., 2020), counting those of the head only for the share of predicted
    tokens, plus 12 x span x width per layer for attention, where the span is the number of tokens that one attends to:
    the sequence length, or the window of a local layer. Embedding lookups are not counted.
    """
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    spans = [length if kind == "full_attention" else min(length, 2 * config.sliding_window + 1) for kind in kinds]
    encoder = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Linear))
    head = config.vocab_size * config.hidden_size + config.hidden_size**2
    return 6.0 * (encoder + head * predicted_per_block / length) + 12.0 * sum(spans) * config.hidden_size
