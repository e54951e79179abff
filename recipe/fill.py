"""What a masked language model puts into a blank."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

CONTEXT_TOKENS = 12  # shown to either side of a blank from the eval set


@dataclass(frozen=True)
class Blank:
    """One blank: the text around it with the mask token in place, its best guesses as (token text, probability), and
    the hidden word where it is known."""

    text: str
    guesses: list[tuple[str, float]]
    hidden: str | None = None


@torch.no_grad()
def fill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, guesses: int = 5) -> list[list[tuple]]:
    """The best `guesses` for each mask token in `text`, in order: [(token text, probability), ...] a mask."""
    encoded = tokenizer(text, return_tensors="pt", truncation=True).to(model.device)
    return _guess(model, tokenizer, encoded["input_ids"][0], guesses)


@torch.no_grad()
def blanks_from(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, count: int = 3
) -> list[Blank]:
    """Up to `count` blanks out of blocks `rows` [n, length], one a block: a word of at least four letters in the
    middle of the block, hidden and guessed."""
    blanks = []
    for row in rows:
        ids = torch.from_numpy(row.astype(np.int64))
        words = [tokenizer.decode([i]) for i in row.tolist()]
        middle = len(row) // 2
        places = sorted(range(1, len(row) - 1), key=lambda place: abs(place - middle))
        place = next((p for p in places if len(words[p].strip()) >= 4 and words[p].strip().isalpha()), None)
        if place is None:
            continue
        masked = ids.clone()
        masked[place] = tokenizer.mask_token_id
        (guessed,) = _guess(model, tokenizer, masked.to(model.device), 3, only=place)
        first, last = max(1, place - CONTEXT_TOKENS), min(len(row) - 1, place + CONTEXT_TOKENS)
        blanks.append(Blank(" ".join(tokenizer.decode(masked[first:last]).split()), guessed, words[place].strip()))
        if len(blanks) == count:
            break
    return blanks


def _guess(model, tokenizer, ids: torch.Tensor, guesses: int, only: int | None = None) -> list[list[tuple]]:
    training = model.training
    model.eval()
    # The class's own forward: the instance's may be the training one, which answers with a loss.
    logits = type(model).forward(model, input_ids=ids[None]).logits[0].float()
    model.train(training)
    places = [only] if only is not None else (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
    answers = []
    for place in places:
        probabilities = logits[place, : len(tokenizer)].softmax(-1)
        best = probabilities.topk(guesses)
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        answers.append([(tokenizer.decode([token]), probability) for probability, token in pairs])
    return answers
