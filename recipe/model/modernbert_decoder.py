"""ModernBERT's causal form, which is a family of its own in transformers: the same weights under other names, with the
matrices of queries, keys and values apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

if TYPE_CHECKING:  # takes seconds, which programs without a model don't wait for
    from transformers import PreTrainedModel

ENCODER, DECODER = "modernbert", "modernbert-decoder"
_PARTS = ("q_proj", "k_proj", "v_proj")
_FUSED = re.compile(r"(.*\.attn\.)Wqkv\.(weight|bias)")
_PART = re.compile(r"(.*\.attn\.)([qkv]_proj)\.(weight|bias)")


def other_form(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the causal form of a ModernBERT, or of the masked form of its decoder."""
    kind = CONFIG_MAPPING[DECODER if config.model_type == ENCODER else ENCODER]
    known = kind().to_dict()
    left_out = {"model_type", "architectures", "transformers_version"}
    shared = {key: value for key, value in config.to_dict().items() if key in known and key not in left_out}
    return kind(**shared)


def copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copies all weights of a ModernBERT to its decoder `target`, or the reverse, head included. Raises RuntimeError,
    as load_state_dict, where the two have different shapes."""
    renamed: dict[str, torch.Tensor] = {}
    weights, head = source.state_dict(), "lm_head." if target.config.model_type == DECODER else "head."
    for name, weight in weights.items():
        if fused := _FUSED.fullmatch(name):
            parts = weight.chunk(len(_PARTS))
            renamed |= {f"{fused[1]}{part}.{fused[2]}": own for part, own in zip(_PARTS, parts, strict=True)}
        elif part := _PART.fullmatch(name):
            own = [weights[f"{part[1]}{one}.{part[3]}"] for one in _PARTS]
            renamed[f"{part[1]}Wqkv.{part[3]}"] = torch.cat(own)
        else:
            renamed[re.sub(r"^(lm_)?head\.", head, name)] = weight
    target.load_state_dict(renamed)
