"""Masks of whole blocks. Document attention: in a block of several documents, each token attends to those of its own
document alone, and positions begin anew at each document (Krell et al., "Efficient sequence packing", 2021,
arXiv:2107.02027). Causal attention of a masked model: each token attends to those before it and itself.

transformers' encoders ignore packed position ids in their masks, so the masks are given whole; model code is not
touched. Shapes are static.
"""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from recipe.model.config import is_causal
from recipe.model.families import FAMILIES
from recipe.system.errors import UserError

ATTENTION = "sdpa"  # takes whole masks, and is transformers' default


def require_masks(config: PreTrainedConfig, what: str) -> None:
    """Raises UserError for a family or an attention implementation that doesn't take masks of whole blocks, which
    `what` needs: --document_attention, or a causal step of a masked model."""
    if not FAMILIES[config.model_type].takes_masks:
        known = ", ".join(name for name, family in FAMILIES.items() if family.takes_masks)
        raise UserError(f"found {what} for a {config.model_type} model, expected one of {known}")
    if config._attn_implementation not in (None, ATTENTION):
        raise UserError(
            f"found {what} beside the attention implementation {config._attn_implementation}, expected {ATTENTION}"
        )


def document_inputs(model: PreTrainedModel, documents: torch.Tensor, causal: bool = False) -> dict:
    """The inputs with which `model`'s encoder treats the documents of a block as if each were alone, and, if it is
    `causal` or the model is, each token as if those after it weren't there. `documents` [batch, length] int: the number
    of each token's document, ascending; padding has a number of its own.

    They are attention_mask, bool [batch, 1, length, length], for ModernBERT one for each type of layer; and
    position_ids [batch, length], which begin at the family's first position.
    """
    config = model.config
    places = torch.arange(documents.shape[1], device=documents.device)
    mask = documents[:, None, :, None] == documents[:, None, None, :]
    if causal or is_causal(config):
        mask &= places[:, None] >= places
    if getattr(config, "layer_types", None):
        apart = (places[:, None] - places).abs()
        # ModernBERT's decoder sees one token less than its encoder.
        near = apart < config.sliding_window if causal or is_causal(config) else apart <= config.sliding_window
        mask = {"full_attention": mask, "sliding_attention": mask & near}
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begins = torch.where(first, places, 0).cummax(1).values
    return {
        "attention_mask": mask,
        "position_ids": places - begins + FAMILIES[config.model_type].first_position(config),
    }
