"""Floating-point operations of a training step per token."""

from torch import nn


def flops_per_token(model: nn.Module, length: int, predicted_per_block: int) -> float:
    """Floating-point operations of one training step a token of input, forward and backward.

    Six a weight of every matrix a token passes (Kaplan et al., 2020), where the head's count only for the predicted
    share of tokens, and twelve a layer for each of span x width in attention, where the span is what a token may look
    at: the length, or a layer's window. Embedding look-ups cost nothing.
    """
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    spans = [length if kind == "full_attention" else min(length, 2 * config.sliding_window + 1) for kind in kinds]
    encoder = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Linear))
    head = config.vocab_size * config.hidden_size + config.hidden_size**2
    return 6.0 * (encoder + head * predicted_per_block / length) + 12.0 * sum(spans) * config.hidden_size
