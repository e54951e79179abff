"""Rows of columns: parquet files and datasets saved with save_to_disk, as text, or as the token ids they already hold.

Whoever wrote them isn't trusted: no pickle is read, and no file outside of the folder.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from transformers import PreTrainedTokenizerFast

from recipe.data.tokenizer import block_ends
from recipe.system.errors import UserError
from recipe.system.files import read_object

IDS = "input_ids"
COLUMNAR = (".parquet", ".arrow")
ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # ends every Arrow stream
ROWS_AT_A_TIME = 64  # of text; whole books are rows, too
ROWS_COMPARED = 100  # enough to see that all rows begin and end alike
MAX_JOINED_TOKENS = 1_000_000  # a document that no end token ends is cut here, so that memory stays bounded
# Masking hides 15 % of the tokens; text that merely speaks of "[MASK]" stays far below this.
MAX_MASKED_SHARE = 0.01


def saved_dataset(folder: Path) -> dict[str, list[Path]] | None:
    """The Arrow files by split of what `save_to_disk` left in `folder`, or None where it left nothing.

    One dataset without splits is {"train": files}. Raises UserError for a damaged or outdated one.
    """
    try:
        if (folder / "dataset_dict.json").exists():
            names = read_object(folder / "dataset_dict.json")["splits"]
            return {name: _data_files(folder / _plain(name, folder)) for name in names}
        if (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
            return {"train": _data_files(folder)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{folder} is no whole dataset of save_to_disk ({reason}): save it again") from error
    return None


def _data_files(folder: Path) -> list[Path]:
    state = read_object(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(f"{folder} was saved with an index of its rows: load it, flatten_indices(), and save it again")
    return [folder / _plain(file["filename"], folder) for file in state["_data_files"]]


def _plain(name: object, folder: Path) -> str:
    """`name`, if it names something directly in `folder`."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"{folder} names the file {name!r}, expected one in that folder: don't use this dataset")
    return name


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns."""
    with _readable(path):
        if path.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        with _arrow(path) as source:
            return pyarrow.ipc.open_stream(source).schema.names


def read_column(path: Path, column: str, rows: int = ROWS_AT_A_TIME) -> Iterator[pyarrow.Array]:
    """A column in arrays of at most `rows`."""
    with _readable(path):
        if path.suffix.lower() == ".parquet":
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=rows, columns=[column]):
                yield batch.column(0)
            return
        with _arrow(path) as source:
            for batch in pyarrow.ipc.open_stream(source):
                values = batch.column(batch.schema.get_field_index(column))
                for start in range(0, len(values), rows):
                    yield values.slice(start, rows)


def _arrow(path: Path) -> pyarrow.MemoryMappedFile:
    source = pyarrow.memory_map(str(path))
    source.seek(max(0, source.size() - len(ARROW_END)))
    if source.read() != ARROW_END:  # a file cut between two batches would else pass for a shorter one
        raise pyarrow.ArrowInvalid("its end is missing")
    source.seek(0)
    return source


class _readable:
    """Arrow's errors and the file system's as one line that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, pyarrow.ArrowException) or (isinstance(error, OSError) and error.errno is None):
            reason = str(error).splitlines()[0]
            what = self.path.suffix.removeprefix(".")
            raise UserError(f"{self.path} is not a whole {what} file ({reason}): write or download it again") from error
        if isinstance(error, OSError):
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error


def read_ids(path: Path) -> Iterator[np.ndarray]:
    """The rows of a file's `input_ids`, one integer array each; rows that are null are left out."""
    for array in read_column(path, IDS, rows=1024):
        kind = array.type
        lists = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
        if not any(is_list(kind) for is_list in lists) or not pyarrow.types.is_integer(kind.value_type):
            raise UserError(f"{path}: column {IDS!r} holds {kind}, expected lists of integers: save the ids as lists")
        values = array.flatten()
        if values.null_count:
            raise UserError(f"{path}: found a null among the {IDS}, expected integers: mend the row")
        lengths = pyarrow.compute.list_value_length(array.drop_null()).to_numpy(zero_copy_only=False)
        yield from np.split(values.to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1]) if len(lengths) else ()


class TokenisedRows:
    """Rows of ids as documents: what rows carry beyond their text is stripped, and counted in `stripped`.

    Begin and pad tokens are dropped wherever they stand; an end token ends a document, and so does a row, unless
    `join` says that rows are pieces cut out of one stream. Documents come without their end token; empty ones don't
    come. Raises UserError for ids that the tokenizer doesn't have, for rows whose ends are another tokenizer's, and
    for rows that were masked already.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast, join: bool = False):
        self.name, self.join, self.vocabulary = name, join, len(tokenizer)
        self.stripped: Counter[str] = Counter()
        ends = {block_ends(tokenizer)[1], tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
        begins = {block_ends(tokenizer)[0], tokenizer.cls_token_id, tokenizer.bos_token_id} - {None} - ends
        self.roles = np.zeros(self.vocabulary, dtype=np.uint8)
        self.PLAIN, self.BEGIN, self.PAD, self.END, self.MASK = range(5)
        named = ((begins, self.BEGIN), ({tokenizer.pad_token_id} - ends, self.PAD), (ends, self.END))
        for ids, role in (*named, ({tokenizer.mask_token_id} - {None}, self.MASK)):
            self.roles[sorted(ids)] = role

    def documents(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The documents of `rows`, in order."""
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
        """Rows that all begin with one id and end with one or two (end and padding) carry special tokens: ours?"""
        known = self.END in self.roles[sorted(lasts)] or self.BEGIN in self.roles[sorted(firsts)]
        if len(firsts) == 1 and len(lasts) <= 2 and not known:
            ours = [np.flatnonzero(self.roles == role).tolist() for role in (self.BEGIN, self.END)]
            raise UserError(
                f"{self.name}: every row begins with the id {min(firsts)} and ends with {max(lasts)}, the tokenizer's "
                f"begin is {ours[0]} and its end {ours[1]}: pass the tokenizer that these rows were made with"
            )

    def _check_masks(self) -> None:
        if self.stripped["mask"] > MAX_MASKED_SHARE * self.stripped["tokens"]:
            raise UserError(
                f"{self.name}: {self.stripped['mask']} of the first {self.stripped['tokens']} ids are the mask token: "
                "expected rows that weren't masked yet; save them before the collator"
            )

    def __str__(self) -> str:
        """What was taken and what was stripped, in a sentence."""
        s = self.stripped
        return (
            f"took {s['tokens']:,} ids in {s['rows']:,} rows of {self.name} as they are, but for {s['begin']:,} begin, "
            f"{s['end']:,} end and {s['pad']:,} pad tokens, which were stripped; each document ends with one end token"
        )


def _joined(pieces: list[np.ndarray]) -> Iterator[np.ndarray]:
    """One document of `pieces`, none where they are empty; leaves the list empty."""
    document = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else ()
    pieces.clear()
    if len(document):
        yield document
