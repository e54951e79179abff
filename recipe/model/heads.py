"""Forward passes for training whose vocabulary projection runs on predicted positions only."""

import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from recipe.model.documents import document_inputs
from recipe.model.families import FAMILIES
from recipe.model.metrics import METRICS

LOGITS_BYTES = 128 << 20  # of logits kept in memory at a time in a training step on a CPU


def use_masked_only_head(model: PreTrainedModel) -> PreTrainedModel:
    """Replaces the forward pass of `model` (in place) by one whose vocabulary projection runs on masked positions only.

    It takes input_ids [batch, length], masked_positions [batch, K], labels [batch, K] (-100 is ignored), for padded
    blocks attention_mask [batch, length], and for document attention, in place of it, documents [batch, length]
    (recipe.model.documents); with `causal`, every token attends to those before it alone. It returns loss, the *sum* of
    the labels' cross-entropies in nats, and in evaluation the sum of each of METRICS over the labels. Loss and
    gradients equal those of the dense head up to rounding."""
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()
    assert decoder is not None, "a language model has a vocabulary projection"

    def forward(self, input_ids, masked_positions, labels, attention_mask=None, documents=None, causal=False):
        if causal and documents is None:
            documents = torch.zeros_like(input_ids)  # padding comes after all text
        inputs = {"attention_mask": attention_mask}
        if documents is not None:
            inputs = document_inputs(self, documents, causal)
        hidden = self.base_model(input_ids, **inputs)[0]
        index = masked_positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return _loss_and_metrics(head(hidden.gather(1, index).flatten(0, 1)), decoder, labels.flatten(), self.training)

    model.forward = types.MethodType(forward, model)
    return model


def use_next_token_head(model: PreTrainedModel) -> PreTrainedModel:
    """Replaces the forward pass of a causal `model` (in place) by one that takes input_ids [batch, length], labels
    [batch, length], the next tokens or -100, and for document attention documents [batch, length], and returns the same
    as that of `use_masked_only_head`."""
    head, decoder = FAMILIES[model.config.model_type].head(model), model.get_output_embeddings()
    assert decoder is not None, "a language model has a vocabulary projection"

    def forward(self, input_ids, labels, documents=None):
        inputs = {} if documents is None else document_inputs(self, documents)
        hidden = self.base_model(input_ids, use_cache=False, **inputs)[0]
        return _loss_and_metrics(head(hidden.flatten(0, 1)), decoder, labels.flatten(), self.training)

    model.forward = types.MethodType(forward, model)
    return model


def _loss_and_metrics(
    features: torch.Tensor, decoder: nn.Linear, labels: torch.Tensor, training: bool
) -> dict[str, torch.Tensor]:
    """The summed cross-entropy of features [n, width] projected to the vocabulary; in evaluation also the metrics."""
    if training and _can_chunk(features, decoder):
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
    return {"loss": loss} | {name: metric.total(logits, labels) for name, metric in METRICS.items()}


def _can_chunk(features: torch.Tensor, decoder: nn.Linear) -> bool:
    """Whether torch's chunked loss (from torch 2.13) gives the same result: eager fp32 on a CPU, without partitioned
    weights (ZeRO-3)."""
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
    """Puts `model` in evaluation mode with the forward pass of its class, as transformers' pipelines expect it."""
    training, own = model.training, model.__dict__.pop("forward", None)
    model.eval()
    try:
        yield model
    finally:
        model.train(training)
        if own is not None:
            model.forward = own
