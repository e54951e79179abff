"""Model families: one record each, with what this project needs to know beyond transformers' classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

if TYPE_CHECKING:  # takes seconds, which programs without a model don't wait for
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A model family; its key in FAMILIES is its model_type."""

    # The head's layers between hidden states [n, width] and the vocabulary projection.
    head: Callable[[PreTrainedModel], nn.Module]
    tokenizer: str = "bpe"  # the kind that --tokenizer_name train trains: bpe or wordpiece
    # The position id of the first token; the rows of the position table before it are unused.
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    # {name of a linear layer: number of matrices stacked in its weight}.
    fused: Mapping[str, int] = field(default_factory=dict)
    # {config key of this family: the usual key}, beyond the attribute_map of its config class.
    config_keys: Mapping[str, str] = field(default_factory=dict)
    is_causal: bool = False  # whether all its models are causal
    # Whether its attention takes masks of whole blocks (recipe.model.documents).
    takes_masks: bool = True


ROBERTA = Family(
    head=lambda model: nn.Sequential(model.lm_head.dense, nn.GELU(), model.lm_head.layer_norm),
    first_position=lambda config: config.pad_token_id + 1,
)
FAMILIES: dict[str, Family] = {
    "roberta": ROBERTA,
    "bert": Family(head=lambda model: model.get_submodule("cls.predictions.transform"), tokenizer="wordpiece"),
    "modernbert": Family(
        head=lambda model: model.get_submodule("head"),
        fused={"Wqkv": 3, "Wi": 2},  # queries, keys and values; input and gate of a GLU
    ),
    "modernbert-decoder": Family(head=lambda model: model.get_submodule("lm_head"), fused={"Wi": 2}, is_causal=True),
    "distilbert": Family(
        head=lambda model: nn.Sequential(
            model.get_submodule("vocab_transform"), nn.GELU(), model.get_submodule("vocab_layer_norm")
        ),
        tokenizer="wordpiece",
        config_keys={"hidden_dim": "intermediate_size"},
    ),
    "electra": Family(head=lambda model: model.get_submodule("generator_predictions"), tokenizer="wordpiece"),
    "deberta-v2": Family(
        head=lambda model: model.get_submodule("cls.predictions.transform"), tokenizer="wordpiece", takes_masks=False
    ),
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
}
MASKED = tuple(name for name, family in FAMILIES.items() if not family.is_causal)


def usual_key(model_type: str | None, key: str) -> str:
    """The usual name of a family's config `key`: hidden_size for DistilBERT's dim."""
    if model_type not in FAMILIES:
        return key
    of_class = {own: usual for usual, own in CONFIG_MAPPING[model_type].attribute_map.items()}
    return {**of_class, **FAMILIES[model_type].config_keys}.get(key, key)


def own_key(model_type: str, key: str) -> str:
    """The inverse of `usual_key` for config_keys alone: a config class maps the keys of its attribute_map itself."""
    keys = FAMILIES[model_type].config_keys if model_type in FAMILIES else {}
    return {usual: own for own, usual in keys.items()}.get(key, key)
