"""A classification or regression task of the user's own in a YAML file, which sweeps and run_glue.py take as they take
the name of a GLUE task.

    name: BoolQ
    train: train.jsonl              # beside this file; csv, tsv, json or jsonl
    validation: dev.jsonl
    texts: [question, passage]      # one column or two
    label: answer
    metric: accuracy                # or f1, mcc, pearson, spearman
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from recipe.data.encodings import check_encoding
from recipe.data.tables import QUOTING, check_delimiter
from recipe.finetune.glue.labels import folded
from recipe.finetune.glue.tasks import TASKS
from recipe.finetune.suite import TaskInfo, TuningSettings
from recipe.system.errors import UserError
from recipe.system.files import sha256_of

SUFFIXES = (".yaml", ".yml")
# {its name in a task file: its name in records}
METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "mcc": "matthews_correlation",
    "pearson": "pearson",
    "spearman": "spearmanr",
}
OF_SCORES = ("pearson", "spearman")
SETTINGS = TASKS["mrpc"].recipe  # a small dataset's: where a file says nothing else
_NAME = re.compile(r"[\w.-]+(?: [\w.-]+)*")


@dataclass(frozen=True)
class OwnTask:
    """One task file. `files` are {split: path}; `labels` the classes in the order of their ids, () for those of the
    training file, sorted; `metric` is a key of METRICS. F1 is that of the second class."""

    file: Path
    name: str
    texts: tuple[str, ...]
    metric: str
    label: str = "label"
    labels: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    dataset: str | None = None  # a hub id, in place of files
    config: str | None = None
    delimiter: str | None = None
    quoting: str = "auto"
    encoding: str | None = None
    settings: TuningSettings = SETTINGS

    @property
    def regression(self) -> bool:
        return self.metric in OF_SCORES

    @property
    def headline(self) -> str:
        """The metric under its name in records."""
        return METRICS[self.metric]

    @property
    def identity(self) -> str:
        """sha256 of everything that a score depends on: what the file says, but for the name, and the data's files."""
        said = {part.name: str(getattr(self, part.name)) for part in fields(self) if part.name not in _NOT_MEANING}
        data = {split: sha256_of(file) for split, file in self.files.items() if split != "test"}
        return hashlib.sha256(json.dumps([said, data], sort_keys=True).encode()).hexdigest()

    def info(self) -> TaskInfo:
        """What a sweep knows about it. Its size is that of its data, which is read later."""
        source = self.dataset or self.file.name
        return TaskInfo(self.name, source, {"train": 0}, self.settings.epochs, identity=self.identity)


_NOT_MEANING = ("file", "name", "files")
_FILES = ("train", "validation", "test")
_TUNING = {"batch_size": int, "learning_rate": float, "epochs": float}
_TEXTS = ("name", "label", "dataset", "config", "delimiter", "quoting", "encoding", "metric", *_FILES)
_KEYS = (*_TEXTS, "texts", "labels", *_TUNING)


def is_task_file(name: str) -> bool:
    """Whether the name of a task is that of a task file."""
    return name.lower().endswith(SUFFIXES)


def read_own_task(name: str) -> OwnTask:
    """The task in a YAML file. Raises UserError, with the key, for one that is missing, unknown or has a wrong value,
    and for a file of data that isn't there."""
    file = Path(name).expanduser()
    content = _content(file)
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{file}: found the key {key!r}, expected some of {', '.join(_KEYS)}")
    for key in _TEXTS:
        if key in content and not (isinstance(content[key], str) and content[key].strip()):
            raise UserError(f"{file}: found {key}: {content[key]!r}, expected a text")
    for key, example in (("name", "BoolQ"), ("texts", "[question, passage]"), ("metric", "accuracy")):
        if key not in content:
            raise UserError(f"{file} has no {key!r}, expected one: add a line such as {key}: {example}")
    if not _NAME.fullmatch(content["name"]):
        raise UserError(f"{file}: found name: {content['name']!r}, expected letters, digits, spaces, - . _")
    if content["metric"] not in METRICS:
        raise UserError(f"{file}: found metric: {content['metric']}, expected one of {', '.join(METRICS)}")
    quoting = content.get("quoting", "auto")
    if quoting not in QUOTING:
        raise UserError(f"{file}: found quoting: {quoting}, expected one of {', '.join(QUOTING)}")
    if encoding := content.get("encoding"):
        check_encoding(encoding)
    delimiter = content.get("delimiter")
    return OwnTask(
        file=file,
        name=content["name"],
        texts=_texts(file, content["texts"]),
        metric=content["metric"],
        label=content.get("label", "label"),
        labels=_labels(file, content.get("labels"), content["metric"]),
        files=_files(file, content),
        dataset=content.get("dataset"),
        config=content.get("config"),
        delimiter=check_delimiter(delimiter) if delimiter else None,
        quoting=quoting,
        encoding=encoding,
        settings=TuningSettings(**{key: _number(file, content, key, kind) for key, kind in _TUNING.items()}),
    )


def _content(file: Path) -> dict:
    try:
        # All values are texts: in YAML 1.1, no is a boolean and 5e-5 is not a number.
        content = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"cannot read the task file {file}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"cannot read the task file {file}: {' '.join(str(error).split())}: correct the YAML"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no keys, expected a task: name: BoolQ, and the like")
    return content


def _texts(file: Path, given: object) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not 1 <= len(names) <= 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: found texts: {given!r}, expected the names of one column or two, such as [a, b]")
    return tuple(names)


def _labels(file: Path, given: object, metric: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(label, str) for label in given):
        raise UserError(f"{file}: found labels: {given!r}, expected a list of the classes, such as [no, yes]")
    if len(given) < 2 or len({folded(label) for label in given}) < len(given):
        raise UserError(f"{file}: found labels: {', '.join(given)}, expected two or more different ones")
    if metric in OF_SCORES:
        raise UserError(f"{file}: found labels beside metric: {metric}, whose labels are numbers: leave labels out")
    if metric == "f1" and len(given) != 2:
        raise UserError(f"{file}: found {len(given)} labels beside metric: f1, that of two: use accuracy or mcc")
    return tuple(given)


def _files(file: Path, content: dict) -> dict[str, Path]:
    given = {split: file.parent / Path(content[split]).expanduser() for split in _FILES if split in content}
    if ("dataset" in content) == bool(given):
        found = "both dataset and files" if given else "neither files nor a dataset"
        raise UserError(f"{file} has {found}, expected train: and validation: with files, or dataset: with a hub id")
    if "config" in content and given:
        raise UserError(f"{file}: found config beside files, expected it beside dataset: leave it out")
    for split in ("train", "validation") if given else ():
        if split not in given:
            raise UserError(f"{file} has no {split!r}, expected a file: add a line such as {split}: {split}.jsonl")
    for split, path in given.items():
        if not path.is_file():
            raise UserError(
                f"{file}: found no file {path} ({split}), expected one: paths begin at the task file's folder"
            )
    return given


def _number(file: Path, content: dict, key: str, kind: type):
    if key not in content:
        return getattr(SETTINGS, key)
    try:
        value = kind(content[key])
    except (TypeError, ValueError):
        value = 0
    if not 0 < value < float("inf"):
        expected = "a whole number" if kind is int else "a number"
        raise UserError(f"{file}: found {key}: {content[key]!r}, expected {expected} above 0")
    return value
