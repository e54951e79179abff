"""Labels of data and of checkpoints: parsing, classes or scores, and matching a model's outputs to labels by name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from recipe.system.errors import UserError

if TYPE_CHECKING:  # takes seconds, and arguments about labels are read with this module
    from transformers import PreTrainedConfig, PreTrainedModel

_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_DEFAULT_NAME = re.compile(r"LABEL_(\d+)")  # the names in transformers' default id2label
# From this number of rows on, a file with more classes than half its rows is refused: its labels are scores, or the
# column is not the label.
ROWS_FOR_CLASSES = 20
SHOWN = 20  # label names in a message, at most


@dataclass(frozen=True)
class SavedLabels:
    """The outputs of a checkpoint with a classification head: label names by id, () for a regression."""

    source: str
    names: tuple[str, ...]

    @property
    def regression(self) -> bool:
        return not self.names

    @property
    def unnamed(self) -> bool:
        """Whether they have only the default names LABEL_0, LABEL_1 ..."""
        return bool(self.names) and all(_DEFAULT_NAME.fullmatch(name) for name in self.names)

    def __str__(self) -> str:
        return "one score" if self.regression else f"the labels {shown(self.names)}"


def saved_labels(config: PreTrainedConfig, source: str) -> SavedLabels | None:
    """The labels in the config of a checkpoint; None without a classification head."""
    if not any("ForSequenceClassification" in name for name in config.architectures or ()):
        return None
    if config.num_labels == 1 or config.problem_type == "regression":
        return SavedLabels(source, ())
    names: dict = config.id2label or {}
    return SavedLabels(source, tuple(str(names[number]) for number in range(len(names))))


def shown(names: tuple[str, ...]) -> str:
    """The names as a comma-separated list, shortened to SHOWN."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# ---- labels of a file


@dataclass(frozen=True)
class Labelling:
    """The mapping of labels to class ids: `names` by id, () for a regression. With `casefolded`, names match regardless
    of case, spaces and hyphens. `notes` are messages about how the labels were interpreted."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    casefolded: bool = False

    @cached_property
    def ids(self) -> dict[str, int]:
        """The class id of each name."""
        return {self._key(name): number for number, name in enumerate(self.names)}

    def _key(self, value) -> str:
        return folded(_name(value)) if self.casefolded else _name(value)

    def knows(self, text: str) -> bool:
        """Whether the text of a cell is one of the labels, or for a regression a number."""
        value = _number(text)
        return self._key(value) in self.ids if self.names else not isinstance(value, str)

    def read(self, value, place: str) -> int | float:
        """The class id, or the score, of a label from `parse_label`. Raises UserError, with its `place`, if it is
        unknown."""
        if not self.names:
            return _score(value, place)
        if (key := self._key(value)) not in self.ids:
            raise UserError(f"{place}: found the label {_name(value)!r}, expected one of {shown(self.names)}")
        return self.ids[key]


def parse_label(value, typed: bool, place: str):
    """A label as a string or a number. Unless `typed`, text that spells a number becomes one. Raises UserError for an
    empty or missing label, NaN or infinity, and other types."""
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise UserError(f"{place}: found an empty label, expected one: fill it in or delete the row")
        return value if typed else _number(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise UserError(f"{place}: found the label {value}, expected a number or a name: correct or delete the row")
        return value
    found = f"a {type(value).__name__}" if isinstance(value, list | dict | tuple) else "no label"
    raise UserError(f"{place}: found {found} as its label, expected one name or number per row")


def _number(text: str) -> str | int | float:
    """The number that `text` spells, else `text`."""
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def labelling_of(
    values: list, places: list[str], source: str, regression: bool | None, saved: SavedLabels | None
) -> Labelling:
    """Infers the labelling from the labels `values` of a file (from `parse_label`). Names and integers are classes, in
    sorted order; numbers with a fraction are scores. Floats that are all integral, like 0.0 and 1.0, are classes.
    `regression` overrides this. With `saved` the classes are those of the checkpoint.

    Raises UserError for a mix of names and numbers, for a single label, and for more labels than half the rows.
    """
    texts = [n for n, value in enumerate(values) if isinstance(value, str)]
    numeric = [n for n, value in enumerate(values) if not isinstance(value, str)]
    if texts and numeric:
        a, b = values[texts[0]], values[numeric[0]]
        raise UserError(
            f"{places[texts[0]]}: found the label {a!r}, a text, and {b!r}, a number, in "
            f"{places[numeric[0]].removeprefix(f'{source}, ')}: write all labels as text or all as numbers"
        )
    fractions = any(value != int(value) for value in values if not isinstance(value, str))
    if saved is not None and regression is None:
        regression = saved.regression
    scores = regression if regression is not None else fractions
    if scores:
        for value, place in zip(values, places, strict=True):
            _score(value, place)
        return Labelling(())
    notes = ()
    if regression is None and any(isinstance(value, float) for value in values):
        notes = ("labels     integers written as floats: used as classes; --regression true makes them scores",)
    names = tuple(dict.fromkeys(map(_name, sorted(set(values)))))
    if saved is not None:
        return _by_checkpoint(names, notes, saved)
    if len(names) == 1:
        raise UserError(f"{source}: every row has the label {names[0]}: expected at least two different ones")
    if len(values) >= ROWS_FOR_CLASSES and len(names) > len(values) / 2:
        raise UserError(
            f"{source}: found {len(names):,} different labels in {len(values):,} rows: pass --label_column with the "
            "right column, or --regression true if they are scores"
        )
    return Labelling(names, notes)


def _by_checkpoint(names: tuple[str, ...], notes: tuple[str, ...], saved: SavedLabels) -> Labelling:
    """The classes of the checkpoint, for evaluation: by name, or by number if its labels have only default names."""
    if not saved.unnamed or not names:
        return Labelling(saved.names, notes, casefolded=len(set(map(folded, saved.names))) == len(saved.names))
    numbers = tuple(str(number) for number in range(len(saved.names)))
    names = numbers if set(names) <= set(numbers) else names
    if len(names) != len(saved.names):
        raise UserError(f"{saved.source} has {saved}, the data {shown(names)}: name them in its config.json (id2label)")
    return Labelling(names, notes)


def _name(value) -> str:
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def folded(name: str) -> str:
    """A label's name by which it is matched: regardless of case, spaces and hyphens."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _score(value, place: str) -> float:
    if isinstance(value, str) and isinstance(number := _number(value), int | float):
        value = number
    if isinstance(value, str):
        raise UserError(f"{place}: found the label {value!r}, expected a number: a regression has scores")
    return float(value)


# ---- matching the outputs of a checkpoint to labels


def output_order(
    saved: SavedLabels | None, names: tuple[str, ...], new_head: bool
) -> tuple[list[int] | None, bool, str]:
    """(the checkpoint's output for each of `names`, whether the output layer must be reinitialised, a message or "").

    Labels match by name regardless of case, or by number if the checkpoint's have only default names. The order is None
    if it stays the same. Raises UserError, with both lists, if the labels differ, unless `new_head` allows a new output
    layer.
    """
    if saved is None:
        return None, True, ""
    task = SavedLabels("", names)
    remedy = (
        "expected the same: choose another checkpoint, or pass --ignore_mismatched_sizes true for a new output layer"
    )
    if saved.regression or task.regression or len(saved.names) != len(names):
        if (saved.regression and task.regression) or new_head:
            return None, not (saved.regression and task.regression), ""
        raise UserError(f"{saved.source} has {saved}, the data {task}: {remedy}")
    if saved.unnamed:
        unnamed = f"labels     {saved.source} has the default names {shown(saved.names)}"
        return None, False, f"{unnamed}: matched by number to {shown(names)}"
    found = [folded(name) for name in saved.names]
    wanted = [folded(name) for name in names]
    if sorted(found) != sorted(wanted) or len(set(found)) < len(found):
        if new_head:
            return None, True, ""
        raise UserError(f"{saved.source} has {saved}, the data {task}: {remedy}")
    order = [found.index(name) for name in wanted]
    return (None if order == sorted(order) else order), False, ""


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The linear layer with one output per label. Raises UserError if there is none."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(f"{model.base_model_prefix}.")
    ]
    if not layers:
        raise UserError(f"found no output layer in a {type(model).__name__}: expected a linear one")
    return layers[-1]


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, order: list[int]) -> None:
    """Permutes the outputs of `model` in place: output n becomes the former output `order[n]`."""
    layer = output_layer(model)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter.copy_(parameter[order].clone())


@torch.no_grad()
def reinitialise_output(model: PreTrainedModel) -> None:
    """Reinitialises the output layer in place, as transformers initialises linear layers."""
    layer = output_layer(model)
    layer.weight.normal_(0.0, getattr(model.config, "initializer_range", 0.02))
    if layer.bias is not None:
        layer.bias.zero_()
