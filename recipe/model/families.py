"""The model families: one record each, with all that this recipe must know of a family beyond transformers' classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A model family, whose key in FAMILIES is its model_type."""

    # The layers of its head between hidden states [n, width] and the vocabulary projection.
    head: Callable[[PreTrainedModel], nn.Module]
    tokenizer: str = "bpe"  # the kind that --tokenizer_name train makes for it: bpe or wordpiece
    # The position of the first token: what its position table loses.
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    # Linear layers that keep several matrices in one weight, below each other, by name, with their number.
    fused: Mapping[str, int] = field(default_factory=dict)
    # What its config calls otherwise than the others do, beyond its class's attribute_map: {its name: their name}.
    config_keys: Mapping[str, str] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "roberta": Family(
        head=lambda model: nn.Sequential(model.lm_head.dense, nn.GELU(), model.lm_head.layer_norm),
        first_position=lambda config: config.pad_token_id + 1,
    ),
    "bert": Family(head=lambda model: model.cls.predictions.transform, tokenizer="wordpiece"),
    "modernbert": Family(
        head=lambda model: model.head,
        fused={"Wqkv": 3, "Wi": 2},  # queries, keys and values; input and gate of a GLU
    ),
}


def usual_key(model_type: str | None, key: str) -> str:
    """The name that most families have for a config's `key`: hidden_size for DistilBERT's dim."""
    if model_type not in FAMILIES:
        return key
    of_class = {own: usual for usual, own in CONFIG_MAPPING[model_type].attribute_map.items()}
    return {**of_class, **FAMILIES[model_type].config_keys}.get(key, key)
