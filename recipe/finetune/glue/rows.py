"""Rows of a classification task, and loading those of GLUE: from the hub, a copy of the hub repository, or the official
TSV files. Labels become class ids or scores; errors name file and line."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from recipe.finetune.glue.tasks import Task
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub

SCORES = (0.0, 5.0)  # the range of STS-B
INDEX = ("index", "id")  # columns of row numbers in test files
_FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
_DIAGNOSTIC_FILES = ("AX.tsv", "diagnostic.tsv", "test.tsv")


@dataclass(frozen=True)
class Rows:
    """One split. `texts` has one list of strings per text column (one or two). `labels` is None if they are unknown.
    `index` are the row numbers in the file of a test split; None if it has none. `replaced` is the number of lone
    surrogates that became U+FFFD."""

    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    source: str
    skipped: int = 0  # malformed rows of the official file that were left out
    index: tuple[str, ...] | None = None
    replaced: int = 0

    def __len__(self) -> int:
        return len(self.texts[0])

    def first(self, count: int | None) -> "Rows":
        """The first `count` rows; None means all."""
        if count is None or count >= len(self):
            return self
        return replace(
            self,
            texts=tuple(column[:count] for column in self.texts),
            labels=self.labels and self.labels[:count],
            index=self.index and self.index[:count],
            skipped=0,
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of texts and labels: identifies the data of a score."""
        digest = hashlib.sha256()
        for column in (*self.texts, map(repr, self.labels or ())):
            for value in column:
                digest.update(value.encode("utf-8", "surrogatepass") + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskRows:
    """The requested splits that exist, and the label names by class id, () for a regression. `notes` are messages about
    how the data was interpreted."""

    splits: dict[str, Rows]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        return not self.labels


def read_glue(task: Task, source: str, splits: tuple[str, ...], **hub_options) -> TaskRows:
    """Loads `splits` of a GLUE task (Wang et al., 2018) from `source`: a folder (official TSV files, or parquet files
    as in the hub repository) or a hub id. Splits without a file are left out of the result. The malformed rows of the
    official training file are skipped and counted; any other malformed row is an error, since predictions would no
    longer match their rows.

    Raises UserError for a folder without the task, a missing column, a line with a wrong number of columns, or an
    unknown label.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        home = _folder_of(task, folder)
        read = _read_parquet if any(home.glob("*.parquet")) else _read_tsv
        found = {split: read(task, home, split) for split in splits}
    elif is_local(source):
        raise UserError(f"found no folder {source}: expected GLUE data: a folder with {task.title}/train.tsv or a copy")
    else:
        found = {split: _read_hub(task, source, split, hub_options) for split in splits}
    return TaskRows({split: rows for split, rows in found.items() if rows is not None}, task.labels)


# ---- official TSV files


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _folder_of(task: Task, folder: Path) -> Path:
    wanted = {task.name} | ({"diagnostic"} if task.name == "ax" else set())
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    for child in children:
        if _plain(child.name) in wanted:
            return child
    names = ", ".join(child.name for child in children) or "nothing"
    raise UserError(f"{folder} has no folder {task.title} (it has {names}): add it, or leave {task.name} out of TASKS")


def _tsv_file(task: Task, home: Path, split: str) -> Path | None:
    if task.name == "ax":
        names: tuple[str, ...] = _DIAGNOSTIC_FILES
    else:
        stem, _, half = split.partition("_")
        names = (_FILES[stem].replace(".tsv", f"_{half}.tsv") if half else _FILES[stem],)
    return next((home / name for name in names if (home / name).is_file()), None)


def _read_tsv(task: Task, home: Path, split: str) -> Rows | None:
    file = _tsv_file(task, home, split)
    if file is None:
        return None
    layout = task.test if split.startswith("test") else task.train
    lines = _lines(file)
    header = layout.header or tuple(next(lines, (0, []))[1])
    columns = [_column(file, header, name) for name in layout.texts]
    label = _column(file, header, layout.label) if layout.label else None
    number_column = next((header.index(name) for name in INDEX if name in header), None) if label is None else None
    index: list[str] = []
    malformed_rows = task.malformed_rows if split == "train" else 0
    texts: tuple[list[str], ...] = tuple([] for _ in columns)
    labels: list = []
    skipped = 0
    for number, fields in lines:
        if len(fields) != len(header):
            skipped += 1
            if skipped > malformed_rows:
                raise UserError(
                    f"{file}, line {number}: found {len(fields)} columns, expected {len(header)} "
                    f"({', '.join(header)}), separated by tabs"
                )
            continue
        for column, place in zip(texts, columns, strict=True):
            column.append(fields[place])
        if number_column is not None:
            index.append(fields[number_column])
        if label is not None:
            labels.append(_label(task.labels, fields[label], f"{file}, line {number}"))
    if not texts[0]:
        raise UserError(f"{file} has no rows: expected the {split} split of {task.title}")
    if number_column is not None and len(set(index)) < len(index):
        again = Counter(index).most_common(1)[0][0]
        raise UserError(f"{file}: found the {header[number_column]} {again!r} twice, expected each once: change one")
    return Rows(texts, labels if label is not None else None, str(file), skipped, tuple(index) or None)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a file that ends its lines with \\n only and quotes nothing; empty last lines are no
    rows. A byte-order mark is dropped."""
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as stream:
            empty = 0
            for number, line in enumerate(stream, start=1):
                line = line.rstrip("\r\n")
                if not line:
                    empty += 1
                    continue
                if empty:
                    raise UserError(f"{file}, line {number - 1}: found an empty line, expected a row: delete it")
                yield number, line.split("\t")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason} near byte {error.start}): convert it") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def _column(file: Path, header: tuple[str, ...], name: str) -> int:
    if name not in header:
        raise UserError(f"{file}, line 1: found the columns {', '.join(header)}, expected one called {name!r}")
    return header.index(name)


def _label(names: tuple[str, ...], text: str, where: str) -> int | float:
    """A class id from its name or number; without names, a score."""
    text = text.strip()
    if names:
        if text in names:
            return names.index(text)
        if text.isdecimal() and int(text) < len(names):
            return int(text)
        raise UserError(f"{where}: found the label {text!r}, expected {', '.join(names)} or 0 to {len(names) - 1}")
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not SCORES[0] <= score <= SCORES[1]:
        raise UserError(f"{where}: found the score {text!r}, expected a number from {SCORES[0]:g} to {SCORES[1]:g}")
    return score


# ---- hub dataset


def _read_parquet(task: Task, home: Path, split: str) -> Rows | None:
    shards = sorted(home.glob(f"{split}-*.parquet")) or sorted(home.glob(f"{split}.parquet"))
    if not shards:
        return None
    try:
        frame = pd.concat([pd.read_parquet(shard) for shard in shards], ignore_index=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {shards[0]}: {str(error).splitlines()[0]}: copy it again") from error
    return _from_frame(task, frame, str(home / f"{split}-*.parquet"))


def _read_hub(task: Task, hub_id: str, split: str, options: dict) -> Rows | None:
    require_hub(f"GLUE data {hub_id}", "a local folder as GLUE_DATA (--glue_data), in the official layout or a copy")
    from datasets import get_dataset_split_names, load_dataset

    try:
        if split not in get_dataset_split_names(hub_id, task.name, token=options.get("token")):
            return None
        data = load_dataset(
            hub_id, task.name, split=split, cache_dir=options.get("cache_dir"), token=options.get("token")
        )
    except Exception as error:  # datasets raises a dozen classes for "not found" and "no network"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot load {task.name} of {hub_id}: {reason}: pass a local folder as GLUE_DATA (--glue_data)"
        ) from error
    return _from_frame(task, data.to_pandas(), f"{hub_id} {task.name} {split}")


def _from_frame(task: Task, frame: pd.DataFrame, source: str) -> Rows:
    for name in (*task.texts, "label"):
        if name not in frame:
            raise UserError(f"{source} has the columns {', '.join(map(str, frame))}, expected one called {name!r}")
    values = frame["label"].tolist()
    hidden = all(value == -1 for value in values)
    labels = None if hidden else [_label(task.labels, str(v), f"{source}, row {n}") for n, v in enumerate(values)]
    index = tuple(map(str, frame["idx"].tolist())) if labels is None and "idx" in frame else None
    return Rows(tuple(frame[name].astype(str).tolist() for name in task.texts), labels, source, index=index)
