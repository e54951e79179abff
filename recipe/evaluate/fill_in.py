"""Predictions of masked language models for the blanks of a text: of one model or all checkpoints of a run, as data and
as a table."""

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

BLANKS = ("___", "<mask>", "[MASK]")  # each is replaced by the model's own mask token
CONTEXT_TOKENS = 12  # shown on each side of a blank from the validation data
CACHED_MODELS = 4  # kept in memory for the next text


@dataclass(frozen=True)
class Blank:
    """One blank of known text: the text around it with the mask token in place, the most probable predictions as (token
    text, probability), and the word that was masked."""

    text: str
    guesses: list[tuple[str, float]]
    target: str


@dataclass(frozen=True)
class Filled:
    """A model's predictions for the blanks of a text: for each blank, in order, the most probable ones as (token text,
    probability), while the other blanks are masked. `step` is the optimizer step if the model is a run's checkpoint."""

    model: str
    step: int | None
    text: str
    blanks: list[list[tuple[str, float]]]


def models_of(named: list[str], warn: Callable[[str], None] = print) -> list[str]:
    """The models that `named` refers to, each once: a run folder stands for its checkpoints in order of steps, any
    other name for one model.

    Damaged checkpoints of a run are skipped, with a warning. Raises UserError for a local name that is neither a model
    nor a run, and if no model is left.
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
                warn(f"warning: {step} is damaged ({reason}): skipped")
            else:
                found[str(step)] = None
    if not found:
        raise UserError(f"none of the checkpoints in {', '.join(named)} is complete")
    return list(found)


def fill_all(models: list[str], texts: list[str], guesses: int = 5, **hub_options) -> Iterator[Filled]:
    """Yields each model's predictions for the blanks (`___` or a mask token) of each text: all models for the first
    text, then all for the next.

    Models are loaded when needed; up to CACHED_MODELS stay in memory. Raises UserError for a text without a blank, a
    text longer than a model's maximum length, and a model that can't be loaded.
    """
    for text in texts:
        for name in models:
            model, tokenizer = _load(name, tuple(hub_options.items()))
            step = step_of(Path(name))
            yield Filled(name, step if step >= 0 else None, text, fill(model, tokenizer, text, guesses))


def table_of(filled: list[Filled]) -> Table:
    """The predictions for one text as a table with a row per blank and model."""
    table = Table(title=Text(filled[0].text), title_justify="left", box=box.SIMPLE, pad_edge=False)
    several = len(filled[0].blanks) > 1
    if several:
        table.add_column("blank", justify="right")
    table.add_column("model", no_wrap=True)
    for rank in range(1, 1 + max(len(guesses) for answer in filled for guesses in answer.blanks)):
        table.add_column(str(rank), no_wrap=True)
    for number in range(len(filled[0].blanks)):
        for index, answer in enumerate(filled):
            label = (
                Path(answer.model).name if answer.step is None else f"{Path(answer.model).parent.name} {answer.step:,}"
            )
            cells = [Text(f"{display_token(word)} {share:.1%}") for word, share in answer.blanks[number]]
            blank = [str(number + 1) if index == 0 else ""] if several else []
            table.add_row(*blank, Text(label), *cells)
        table.add_section()
    return table


def display_token(word: str) -> str:
    """The text of a token for display: without white space around it, and quoted and escaped if it isn't printable."""
    word = word.strip() or word
    return word if word.isprintable() and not word.isspace() else repr(word)


@lru_cache(maxsize=CACHED_MODELS)
def _load(name: str, hub_options: tuple) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    options = dict(hub_options)
    if not is_local(name):
        require_hub(f"model {name}", "a checkpoint's folder")
    tokenizer = load_tokenizer(name, **options)
    return load_model(name, load_config(name, **options), _print_to_stderr, **options), tokenizer


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@torch.no_grad()
def fill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, guesses: int = 5) -> list[list[tuple]]:
    """The `guesses` most probable tokens for each blank (`___` or a mask token) of `text`, in order: [(token text,
    probability), ...] per blank. Raises UserError if there is no blank, or if the text exceeds the model's maximum
    length."""
    mask = tokenizer.mask_token
    assert mask is not None, "load_tokenizer requires one"
    for blank in BLANKS:
        text = text.replace(blank, mask)
    if mask not in text:
        raise UserError(f"found no blank in {text!r}: write ___ or {mask} where one is")
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0].to(model.device)
    if len(ids) > (maximum := positions(model.config)):
        raise UserError(f"the text has {len(ids)} tokens, the model accepts at most {maximum}: shorten it")
    return _predict(model, tokenizer, ids, guesses)


@torch.no_grad()
def blanks_from(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, count: int = 3
) -> list[Blank]:
    """Up to `count` blanks from blocks `rows` [n, length], at most one per block: the token of at least four letters
    nearest to the middle is masked and predicted."""
    mask = tokenizer.mask_token_id
    assert mask is not None, "load_tokenizer requires one"
    blanks = []
    for row in rows:
        ids = torch.from_numpy(row.astype(np.int64))
        words = [tokenizer.decode([i]) for i in row.tolist()]
        middle = len(row) // 2
        candidates = sorted(range(1, len(row) - 1), key=lambda position: abs(position - middle))
        position = next((p for p in candidates if len(words[p].strip()) >= 4 and words[p].strip().isalpha()), None)
        if position is None:
            continue
        masked = ids.clone()
        masked[position] = mask
        (predicted,) = _predict(model, tokenizer, masked.to(model.device), 3, only=position)
        first, last = max(1, position - CONTEXT_TOKENS), min(len(row) - 1, position + CONTEXT_TOKENS)
        text = " ".join(tokenizer.decode(masked[first:last]).split())
        blanks.append(Blank(text, predicted, words[position].strip()))
        if len(blanks) == count:
            break
    return blanks


def _predict(model, tokenizer, ids: torch.Tensor, guesses: int, only: int | None = None) -> list[list[tuple]]:
    """The most probable tokens at each masked position of `ids` [length], or at position `only`."""
    training = model.training
    model.eval()
    # The forward of the class: that of the instance may be the training one, which returns a loss and no logits.
    logits = type(model).forward(model, input_ids=ids[None]).logits[0].float()
    model.train(training)
    masked = [only] if only is not None else (ids == tokenizer.mask_token_id).nonzero().flatten().tolist()
    predictions = []
    for position in masked:
        probabilities = logits[position, : len(tokenizer)].softmax(-1)
        best = probabilities.topk(min(guesses, len(tokenizer)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        predictions.append([(tokenizer.decode([token]), probability) for probability, token in pairs])
    return predictions
