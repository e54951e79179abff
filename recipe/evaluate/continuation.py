"""How a causal language model continues a text."""

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.tokenizer import block_ends
from recipe.model.config import first_position
from recipe.model.heads import plain_forward

PROMPT_TOKENS = 12
NEW_TOKENS = 40


@torch.no_grad()
def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: torch.Tensor,
    new_tokens: int,
    seed: int | None = 0,
) -> torch.Tensor:
    """The up to `new_tokens` ids that `model` puts behind `ids` [length], begin token included; it stops where a
    document ends. Drawn by `seed` from the 40 likeliest at temperature 0.8, or always the likeliest without one; no
    other draw is moved."""
    first = first_position(model.config)
    devices = [model.device] if model.device.type == "cuda" else []
    drawn = {} if seed is None else {"top_k": 40, "temperature": 0.8}
    with plain_forward(model) as plain, torch.random.fork_rng(devices):
        torch.manual_seed(seed or 0)
        written = plain.generate(  # pyright: ignore[reportCallIssue] (of GenerationMixin, a base of causal models alone)
            ids[None].to(model.device),
            attention_mask=torch.ones_like(ids[None]).to(model.device),
            # generate() of transformers 5.23 counts positions from 0, RoBERTa from pad_token_id + 1.
            position_ids=torch.arange(first, first + len(ids))[None].to(model.device),
            max_new_tokens=new_tokens,
            do_sample=seed is not None,
            eos_token_id=block_ends(tokenizer)[1],
            pad_token_id=tokenizer.pad_token_id,
            **drawn,
        )
    return written[0, len(ids) :].cpu()


def continuations_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, count: int = 3
) -> list[tuple[str, str]]:
    """The first `count` blocks of `rows` [n, length] as (their first tokens, what `model` puts behind those)."""
    available = rows.shape[1] - 1
    prompt = min(1 + PROMPT_TOKENS, available // 2)
    found = []
    for row in rows[:count]:
        ids = torch.from_numpy(row[:prompt].astype(np.int64))
        written = continue_text(model, tokenizer, ids, min(NEW_TOKENS, available - prompt))
        shown = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, written))
        found.append(tuple(" ".join(text.split()) for text in shown))
    return found
