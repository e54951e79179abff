"""What masked language models put into a blank: one model or all checkpoints of a run, as data and as a table."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.tokenizer import load_tokenizer
from recipe.model.checkpoints import checkpoints, step_of
from recipe.model.config import load_config, positions
from recipe.model.loading import load_model
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub, require_local_path
from recipe.system.manifest import damage

BLANKS = ("___", "<mask>", "[MASK]")  # any model understands each of them
CONTEXT_TOKENS = 12  # shown to either side of a blank from the eval set
MODELS_KEPT = 4  # in memory, for the next question


@dataclass(frozen=True)
class Blank:
    """One blank: the text around it with the mask token in place, its best guesses as (token text, probability), and
    the hidden word where it is known."""

    text: str
    guesses: list[tuple[str, float]]
    hidden: str | None = None


@dataclass(frozen=True)
class Filled:
    """What a model, at optimizer step `step` if it is a run's checkpoint, puts into the blanks of a text: the best
    guesses as (token text, probability) for each blank, in order, each blank guessed with the others still blank."""

    model: str
    step: int | None
    text: str
    blanks: list[list[tuple[str, float]]]


def models_of(named: list[str], warn: Callable[[str], None] = print) -> list[str]:
    """The models that `named` mean, each once: a run's folder means its checkpoints by step, anything else itself.

    A run's damaged checkpoints are left out, with a warning. Raises UserError where nothing usable is there.
    """
    found: dict[str, None] = {}
    for name in named:
        require_local_path(name, "checkpoint")
        folder = Path(name).expanduser()
        if not (steps := checkpoints(folder)):
            if is_local(name) and not (folder / "config.json").exists():
                raise UserError(f"found no config.json and no checkpoints in {name}: expected a checkpoint or a run")
            found[name] = None
        for step in steps:
            if reason := damage(step):
                warn(f"warning: {step} is damaged ({reason}): left out")
            else:
                found[str(step)] = None
    if not found:
        raise UserError(f"none of the checkpoints in {', '.join(named)} is whole")
    return list(found)


def fill_all(models: list[str], texts: list[str], guesses: int = 5, **hub_options) -> Iterator[Filled]:
    """Fills the blanks (`___` or a mask token) of each text with each model: all models for the first text, and so on.

    Models are opened one after the other; a few stay in memory. Raises UserError for a text without a blank, a text
    longer than a model takes, and a model that can't be loaded.
    """
    for text in texts:
        for name in models:
            model, tokenizer = _open(name, tuple(hub_options.items()))
            step = step_of(Path(name))
            yield Filled(name, step if step >= 0 else None, text, fill(model, tokenizer, text, guesses))


def table_of(filled: list[Filled]) -> Table:
    """The answers to one text: a row for each blank and model."""
    table = Table(title=Text(filled[0].text), title_justify="left", box=box.SIMPLE, pad_edge=False)
    several = len(filled[0].blanks) > 1
    if several:
        table.add_column("blank", justify="right")
    table.add_column("model", no_wrap=True)
    for rank in range(1, 1 + max(len(guesses) for answer in filled for guesses in answer.blanks)):
        table.add_column(str(rank), no_wrap=True)
    for number in range(len(filled[0].blanks)):
        for place, answer in enumerate(filled):
            label = (
                Path(answer.model).name if answer.step is None else f"{Path(answer.model).parent.name} {answer.step:,}"
            )
            cells = [Text(f"{display_token(word)} {share:.1%}") for word, share in answer.blanks[number]]
            blank = [str(number + 1) if place == 0 else ""] if several else []
            table.add_row(*blank, Text(label), *cells)
        table.add_section()
    return table


def display_token(word: str) -> str:
    """A predicted token as visible text, whitespace and control characters included."""
    word = word.strip() or word
    return word if word.isprintable() and not word.isspace() else repr(word)


@lru_cache(maxsize=MODELS_KEPT)
def _open(name: str, hub_options: tuple) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    options = dict(hub_options)
    if not is_local(name):
        require_hub(f"model {name}", "a checkpoint's folder")
    tokenizer = load_tokenizer(name, **options)
    return load_model(name, load_config(name, **options), _say_aside, **options), tokenizer


def _say_aside(line: str) -> None:
    print(line, file=sys.stderr)


@torch.no_grad()
def fill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, guesses: int = 5) -> list[list[tuple]]:
    """The best `guesses` for each blank (`___` or a mask token) in `text`, in order: [(token text, probability), ...]
    a blank. Raises UserError where there is none, or where the text is longer than the model takes."""
    mask = tokenizer.mask_token
    assert mask is not None, "load_tokenizer requires one"
    for blank in BLANKS:
        text = text.replace(blank, mask)
    if mask not in text:
        raise UserError(f"found no blank in {text!r}: write ___ or {mask} where one is")
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0].to(model.device)
    if len(ids) > (limit := positions(model.config)):
        raise UserError(f"the text has {len(ids)} tokens, the model takes {limit}: shorten it")
    return _guess(model, tokenizer, ids, guesses)


@torch.no_grad()
def blanks_from(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, count: int = 3
) -> list[Blank]:
    """Up to `count` blanks out of blocks `rows` [n, length], one a block: a word of at least four letters in the
    middle of the block, hidden and guessed."""
    mask = tokenizer.mask_token_id
    assert mask is not None, "load_tokenizer requires one"
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
        masked[place] = mask
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
        best = probabilities.topk(min(guesses, len(tokenizer)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        answers.append([(tokenizer.decode([token]), probability) for probability, token in pairs])
    return answers
