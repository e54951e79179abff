"""Labelled sentences: files in CoNLL layout, JSON lines, a folder of them, or a hub dataset."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from recipe.data.compression import READ_ERRORS, format_suffix, open_binary
from recipe.data.encodings import lines, whole_lines
from recipe.finetune.tables import Table, read_table
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub, require_local_path

SPLITS = {"train": ("train",), "validation": ("dev", "valid"), "test": ("test",)}  # parts of file names, by split
TABLES = (".json", ".jsonl")
OUTSIDE = "O"
DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class Sentences:
    """One split: the words of each sentence and, unless they are unknown, the label of each word, in the scheme IOB2
    (B- for the first word of an entity, I- for the others, O outside)."""

    words: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...] | None
    source: str
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.words)

    def first(self, count: int | None) -> "Sentences":
        """The first `count` sentences; None means all."""
        return replace(self, words=self.words[:count], labels=self.labels and self.labels[:count])

    @cached_property
    def digest(self) -> str:
        """The sha256 of words and labels."""
        return hashlib.sha256(json.dumps([self.words, self.labels]).encode()).hexdigest()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The labels that occur, O first."""
        found = {label for sentence in self.labels or () for label in sentence}
        return (OUTSIDE, *sorted(found - {OUTSIDE}))


def read_folder(folder: Path, columns: tuple[str, str]) -> dict[str, Sentences]:
    """{split: sentences} of a folder, by the names of its files. Raises UserError where two files could be a split."""
    found: dict[str, Path] = {}
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        for split, parts in SPLITS.items():
            if any(part in file.name.lower() for part in parts):
                if split in found:
                    raise UserError(
                        f"{folder} has {found[split].name} and {file.name} for {split}: pass --{split}_file"
                    )
                found[split] = file
                break
    if not found:
        raise UserError(f"found no file in {folder} whose name has train, dev or test in it: pass --train_file")
    return {split: read_file(file, columns) for split, file in found.items()}


def read_file(file: Path, columns: tuple[str, str]) -> Sentences:
    """The sentences of a file: .json and .jsonl have lists under `columns`, of words and labels; any other file has a
    word and, in its last column, a label per line, and an empty line after each sentence. Raises UserError, with the
    line, for a line without a label and for labels that aren't IOB2."""
    require_local_path(str(file), "labelled sentences")
    if format_suffix(file) in TABLES:
        return of_table(read_table(file), columns)
    words: list[tuple[str, ...]] = []
    labels: list[tuple[str, ...]] = []
    sentence: list[tuple[str, str]] = []
    try:
        with open_binary(file) as stream:
            for number, line in [*whole_lines(lines(file, stream, None)), (0, "")]:
                line = line.rstrip("\r\n")
                if line.strip() and not line.startswith(DOCUMENT):
                    sentence.append(_fields(file, number, line))
                elif sentence:
                    found = tuple(zip(*sentence, strict=True))
                    words.append(found[0])
                    labels.append(found[1])
                    sentence = []
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read {file}: {reason}: expected a word and its label per line") from error
    if not words:
        raise UserError(f"{file} has no sentences: expected a word and its label per line, and empty lines between")
    return Sentences(tuple(words), tuple(labels), str(file))


def _fields(file: Path, number: int, line: str) -> tuple[str, str]:
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) < 2:
        raise UserError(f"{file}, line {number}: found {line[:40]!r}, expected a word and its label")
    return fields[0], _label(fields[-1].strip(), f"{file}, line {number}")


def _label(label: str, place: str) -> str:
    if label != OUTSIDE and label[:2] not in ("B-", "I-"):
        raise UserError(f"{place}: found the label {label!r}, expected O, B-... or I-... (the scheme IOB2)")
    return label


def of_table(table: Table, columns: tuple[str, str], names: list[str] | None = None) -> Sentences:
    """The sentences of a table whose cells are lists; numbers are labels of the list `names`."""
    words_column, labels_column = columns
    if words_column not in table.columns:
        raise UserError(f"{table.source} has the columns {', '.join(table.columns)}, expected {words_column}: pass "
                        "--text_column_name NAME")  # fmt: skip
    words, labels = [], [] if labels_column in table.columns else None
    for row, cell in enumerate(table.columns[words_column]):
        if not isinstance(cell, list) or not all(isinstance(word, str) for word in cell):
            raise UserError(f"{table.place(row)}: found no list of words under {words_column}")
        words.append(tuple(cell))
        if labels is not None:
            given = table.columns[labels_column][row]
            if not isinstance(given, list) or len(given) != len(cell):
                raise UserError(
                    f"{table.place(row)}: expected a label for each of {len(cell)} words in {labels_column}"
                )
            labels.append(tuple(_named(label, names, table.place(row)) for label in given))
    if not words:
        raise UserError(f"{table.source} has no sentences")
    return Sentences(tuple(words), None if labels is None else tuple(labels), table.source)


def _named(label: object, names: list[str] | None, place: str) -> str:
    if isinstance(label, int) and names and 0 <= label < len(names):
        label = names[label]
    if not isinstance(label, str):
        raise UserError(f"{place}: found the label {label!r}, expected the name of one, O, B-... or I-...")
    return _label(label, place)


def read_hub(name: str, config: str | None, columns: tuple[str, str], **hub_options) -> dict[str, Sentences]:
    """{split: sentences} of a hub dataset with lists of words and of labels."""
    require_hub(f"dataset {name}", "a folder as --dataset_name (NER_DATA)")
    from datasets import load_dataset

    chosen = {key: value for key, value in hub_options.items() if key in ("cache_dir", "token")}
    try:
        data = load_dataset(name, config, **chosen)
    except Exception as error:  # datasets raises a dozen classes for "not found" and "no network"
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"cannot load {name}: {reason}: pass a folder as --dataset_name") from error
    found = {}
    for split, part in data.items():
        feature = getattr(part.features.get(columns[1]), "feature", None)
        table = Table(f"{name} {split}", part.to_dict(), [f"row {row}" for row in range(len(part))])
        found[split] = of_table(table, columns, getattr(feature, "names", None))
    return found


def read_sentences(
    source: str | None, files: dict[str, str], config: str | None, columns: tuple[str, str], **hub_options
) -> dict[str, Sentences]:
    """{split: sentences} of files, of a folder or of a hub dataset."""
    if files:
        return {split: read_file(Path(name).expanduser(), columns) for split, name in files.items()}
    assert source is not None, "the arguments name a data set or files"
    require_local_path(source, "labelled sentences")
    if is_local(source):
        return read_folder(Path(source).expanduser(), columns)
    return read_hub(source, config, columns, **hub_options)
