"""Training forwards whose vocabulary projection runs on predicted positions alone."""

import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from recipe.model.families import FAMILIES

LOGITS_BYTES = 128 << 20  # of logits that a training step on a CPU holds at a time


def use_masked_only_head(model: PreTrainedModel) -> PreTrainedModel:
    """Gives `model` a training forward whose vocabulary projection runs on masked positions alone (in place).

    It takes input_ids [batch, length], masked_positions [batch, K], labels [batch, K] (-100: not counted) and, if
    blocks are padded, attention_mask, and returns loss, the *sum* of cross-entropies over counted labels in nats,
    and, in evaluation, correct, how many of them the model ranks first. Loss and gradients are those of the dense
    head to rounding.
    """
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()

    def forward(self, input_ids, masked_positions, labels, attention_mask=None):
        hidden = self.base_model(input_ids, attention_mask=attention_mask)[0]
        index = masked_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return _scored(head(hidden.gather(1, index).flatten(0, 1)), decoder, labels.flatten(), self.training)

    model.forward = types.MethodType(forward, model)
    return model


def use_next_token_head(model: PreTrainedModel) -> PreTrainedModel:
    """Gives a causal `model` a training forward (in place) that takes input_ids [batch, length] and labels
    [batch, length], each the token after its input's or -100, and returns what that of `use_masked_only_head` does."""
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()

    def forward(self, input_ids, labels):
        hidden = self.base_model(input_ids, use_cache=False)[0]
        return _scored(head(hidden.flatten(0, 1)), decoder, labels.flatten(), self.training)

    model.forward = types.MethodType(forward, model)
    return model


def _scored(
    features: torch.Tensor, decoder: nn.Linear, labels: torch.Tensor, training: bool
) -> dict[str, torch.Tensor]:
    """The summed cross-entropy of features [n, width] projected onto the vocabulary; in evaluation, also the hits."""
    if training and _piecewise(features, decoder):
        rows = max(1, LOGITS_BYTES // (4 * decoder.out_features))
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
        loss = functional.linear_cross_entropy(
            features, decoder.weight, labels, linear_bias=decoder.bias, reduction="sum", options=options
        )
        return {"loss": loss}
    logits = decoder(features).float()
    loss = functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    if training:
        return {"loss": loss}
    return {"loss": loss, "correct": (logits.argmax(-1) == labels).sum()}


def _piecewise(features: torch.Tensor, decoder: nn.Linear) -> bool:
    """Whether torch's chunked loss computes the same: eagerly on a CPU, in fp32, with the weights at hand (ZeRO-3
    has them elsewhere), from torch 2.13 on."""
    return (
        hasattr(functional, "linear_cross_entropy")
        and features.device.type == "cpu"
        and features.dtype == decoder.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not hasattr(decoder.weight, "ds_id")
    )


@contextmanager
def plain_forward(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """`model` in evaluation mode and with its class's own forward, as transformers' own tools expect it."""
    training, own = model.training, model.__dict__.pop("forward", None)
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
        if own is not None:
            model.forward = own
