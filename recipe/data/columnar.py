"""Columnar files: parquet and datasets of save_to_disk, read as text or, where they are pre-tokenised, as token ids.

Their authors aren't trusted: no pickle is read, and no file outside of the folder.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from transformers import PreTrainedTokenizerFast

from recipe.data.meter import Meter
from recipe.data.tokenizer import block_ends
from recipe.system.errors import UserError
from recipe.system.files import read_object

IDS = "input_ids"
COLUMNAR = (".parquet", ".arrow")
ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # ends every Arrow stream
ROWS_AT_A_TIME = 64  # of text; a row may be a complete book
ROWS_COMPARED = 100  # enough to see that all rows begin and end with the same ids
MAX_JOINED_TOKENS = 1_000_000  # a document without an end token is split here, so that memory stays bounded
# Masking replaces about 12 % of the tokens by the mask; text that merely mentions "[MASK]" stays far below this.
MAX_MASKED_SHARE = 0.01


def saved_dataset(folder: Path) -> dict[str, list[Path]] | None:
    """{split: Arrow files} of the dataset that `save_to_disk` wrote to `folder`; None where there is none.

    A dataset without splits is {"train": files}. Raises UserError for a damaged one, or one saved with an index.
    """
    try:
        if (folder / "dataset_dict.json").exists():
            names = read_object(folder / "dataset_dict.json")["splits"]
            return {name: _data_files(folder / _safe_name(name, folder)) for name in names}
        if (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
            return {"train": _data_files(folder)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{folder} is an incomplete dataset of save_to_disk ({reason}): save it again") from error
    return None


def _data_files(folder: Path) -> list[Path]:
    state = read_object(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(f"{folder} was saved with an index of its rows: load it, flatten_indices(), and save it again")
    return [folder / _safe_name(file["filename"], folder) for file in state["_data_files"]]


def _safe_name(name: object, folder: Path) -> str:
    """`name`, if it is the name of something directly in `folder`. Raises UserError for any other."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"{folder} names the file {name!r}, expected one in that folder: don't use this dataset")
    return name


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns."""
    with _read_errors(path):
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        with _open_arrow(path) as source:
            return pyarrow.ipc.open_stream(source).schema.names


def read_column(
    path: Path, column: str, rows: int = ROWS_AT_A_TIME, meter: Meter | None = None
) -> Iterator[pyarrow.Array]:
    """Yields a column in arrays of at most `rows` rows; `meter` counts the file's bytes in proportion to its rows."""
    meter = meter or Meter()
    with _read_errors(path):
        if path.suffix.lower() == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            bytes_per_row = path.stat().st_size / max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=rows, columns=[column]):
                yield batch.column(0)
                meter.add(len(batch) * bytes_per_row)
            return
        with _open_arrow(path) as source:
            position = 0
            for batch in pyarrow.ipc.open_stream(source):
                meter.add(source.tell() - position)
                position = source.tell()
                values = batch.column(batch.schema.get_field_index(column))
                for start in range(0, len(values), rows):
                    yield values.slice(start, rows)


def _open_arrow(path: Path) -> pyarrow.MemoryMappedFile:
    source = pyarrow.memory_map(str(path))
    source.seek(max(0, source.size() - len(ARROW_END)))
    if source.read() != ARROW_END:  # a file cut between two batches would otherwise be read as a shorter one
        raise pyarrow.ArrowInvalid("its end is missing")
    source.seek(0)
    return source


class _read_errors:
    """Converts errors of Arrow and of the file system to a UserError that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, pyarrow.ArrowException) or (isinstance(error, OSError) and error.errno is None):
            reason = str(error).splitlines()[0]
            kind = self.path.suffix.removeprefix(".")
            raise UserError(
                f"{self.path} is a damaged or incomplete {kind} file ({reason}): write or download it again"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error


def read_ids(path: Path, meter: Meter | None = None) -> Iterator[np.ndarray]:
    """Yields the rows of the column `input_ids`, one integer array each, without null rows; `meter` as in
    `read_column`."""
    for array in read_column(path, IDS, rows=1024, meter=meter):
        kind = array.type
        lists = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
        if not any(is_list(kind) for is_list in lists) or not pyarrow.types.is_integer(kind.value_type):
            raise UserError(f"{path}: column {IDS!r} holds {kind}, expected lists of integers: save the ids as lists")
        values = array.flatten()
        if values.null_count:
            raise UserError(f"{path}: found a null among the {IDS}, expected integers: correct the row")
        lengths = pyarrow.compute.list_value_length(array.drop_null()).to_numpy(zero_copy_only=False)
        yield from np.split(values.to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1]) if len(lengths) else ()


class TokenisedRows:
    """Splits rows of token ids into documents; special tokens are stripped, and counted in `stripped`.

    Begin and pad tokens are dropped wherever they are. An end token ends a document, and so does the end of a row,
    unless `join` says that rows are pieces of one stream. Documents are returned without their end token; empty ones
    are left out. Raises UserError for ids outside of the vocabulary, rows with another tokenizer's special tokens, and
    rows that are already masked.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast, join: bool = False):
        self.name, self.join, self.vocabulary = name, join, len(tokenizer)
        self.stripped: Counter[str] = Counter()
        ends = _present(block_ends(tokenizer)[1], tokenizer.sep_token_id, tokenizer.eos_token_id)
        begins = _present(block_ends(tokenizer)[0], tokenizer.cls_token_id, tokenizer.bos_token_id) - ends
        self.roles = np.zeros(self.vocabulary, dtype=np.uint8)
        self.PLAIN, self.BEGIN, self.PAD, self.END, self.MASK = range(5)
        named = ((begins, self.BEGIN), (_present(tokenizer.pad_token_id) - ends, self.PAD), (ends, self.END))
        for ids, role in (*named, (_present(tokenizer.mask_token_id), self.MASK)):
            self.roles[sorted(ids)] = role

    def documents(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the documents of `rows`, in order."""
        carried: list[np.ndarray] = []
        for row in self._checked(rows):
            roles = self.roles[row]
            if roles.any():
                counts = np.bincount(roles, minlength=5)
                self.stripped.update(
                    begin=int(counts[self.BEGIN]), pad=int(counts[self.PAD]), end=int(counts[self.END])
                )
                self.stripped["mask"] += int(counts[self.MASK])
                kept = (roles != self.BEGIN) & (roles != self.PAD)
                row, roles = row[kept], roles[kept]
            start = 0
            for stop in np.flatnonzero(roles == self.END).tolist():
                carried.append(row[start:stop])
                yield from _joined(carried)
                start = stop + 1
            carried.append(row[start:])
            if not self.join or sum(map(len, carried)) >= MAX_JOINED_TOKENS:
                yield from _joined(carried)
        yield from _joined(carried)
        self._check_masks()

    def _checked(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        firsts: set[int] = set()
        lasts: set[int] = set()
        for row in rows:
            if not len(row):
                continue
            number = self.stripped["rows"]
            self.stripped["rows"] += 1
            self.stripped["tokens"] += len(row)
            if row.min() < 0 or row.max() >= self.vocabulary:
                found = row.min() if row.min() < 0 else row.max()
                raise UserError(
                    f"{self.name}, row {number}: found the id {found}, the tokenizer has {self.vocabulary} tokens: "
                    "pass the tokenizer that these rows were made with"
                )
            if number < ROWS_COMPARED:
                firsts.add(int(row[0]))
                lasts.add(int(row[-1]))
            elif number == ROWS_COMPARED:
                self._check_ends(firsts, lasts)
            elif number % 10_000 == 0:
                self._check_masks()
            yield row

    def _check_ends(self, firsts: set[int], lasts: set[int]) -> None:
        """Raises UserError where rows have special tokens (all begin with one id and end with one of one or two, an end
        token or padding), but not this tokenizer's."""
        known = self.END in self.roles[sorted(lasts)] or self.BEGIN in self.roles[sorted(firsts)]
        if len(firsts) == 1 and len(lasts) <= 2 and not known:
            begins, ends = (np.flatnonzero(self.roles == role).tolist() for role in (self.BEGIN, self.END))
            raise UserError(
                f"{self.name}: every row begins with the id {min(firsts)} and ends with {max(lasts)}, the tokenizer's "
                f"begin is {begins} and its end {ends}: pass the tokenizer that these rows were made with"
            )

    def _check_masks(self) -> None:
        if self.stripped["mask"] > MAX_MASKED_SHARE * self.stripped["tokens"]:
            raise UserError(
                f"{self.name}: {self.stripped['mask']} of the first {self.stripped['tokens']} ids are the mask token: "
                "expected rows without masking: save them before the collator masks them"
            )

    def __str__(self) -> str:
        """A sentence on what was read and what was stripped."""
        s = self.stripped
        return (
            f"used {s['tokens']:,} ids in {s['rows']:,} rows of {self.name} as they are, without {s['begin']:,} begin, "
            f"{s['end']:,} end and {s['pad']:,} pad tokens, which were stripped; each document ends with one end token"
        )


def _present(*ids: int | None) -> set[int]:
    return {number for number in ids if number is not None}


def _joined(pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields `pieces` as one document unless they are empty; clears the list."""
    document = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else None
    pieces.clear()
    if document is not None and len(document):
        yield document
