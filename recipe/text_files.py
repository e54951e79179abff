"""Files as documents: text, JSON lines, CSV, TSV, parquet and Arrow, plain or compressed; a mistake with its line."""

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow

from recipe.errors import UserError
from recipe.rows import COLUMNAR, columns_of, read_column

FORMATS = (".txt", ".jsonl", ".json", ".csv", ".tsv", *COLUMNAR)
COMPRESSIONS = (".gz", ".zst")
# A paragraph or a line of more characters than this is cut, so that memory stays bounded whatever a file holds.
MAX_TEXT_CHARACTERS = 1_000_000


def format_of(path: Path) -> str | None:
    """The suffix of FORMATS that a file's name has, compressed or not; None for any other."""
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def read_documents(path: Path, text_column: str, line_by_line: bool, keep_linebreaks: bool = True) -> Iterator[str]:
    """The documents of a file, in order. Raises UserError, with the line where there is one, for what can't be read."""
    kind = format_of(path)
    try:
        if kind in COLUMNAR:
            yield from _read_columnar(path, text_column)
            return
        with _open_binary(path) as stream:
            if kind == ".txt":
                yield from _read_text(path, stream, line_by_line, "\n" if keep_linebreaks else " ")
            elif kind in (".csv", ".tsv"):
                yield from _read_csv(path, stream, text_column, "," if kind == ".csv" else "\t")
            else:
                yield from _read_json_lines(path, stream, text_column)
    except (csv.Error, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}: mend the file") from error
    except (EOFError, OSError, zlib.error) as error:
        if path.suffix in COMPRESSIONS and getattr(error, "errno", None) is None:
            raise UserError(f"{path} is not a whole compressed file ({error}): make or download it again") from error
        raise UserError(f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}") from error


def _open_binary(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return path.open("rb")


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """(number, text) of each line, at most MAX_TEXT_CHARACTERS bytes of it at a time, never inside a UTF-8 letter."""
    number, carried = 1, b""
    while raw := stream.readline(MAX_TEXT_CHARACTERS):
        raw = (carried + raw).removeprefix(codecs.BOM_UTF8) if number == 1 else carried + raw
        if b"\0" in raw:
            raise UserError(f"{path}, line {number}: found a zero byte, expected UTF-8 text: this file is binary")
        try:
            text, carried = raw.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if not raw.endswith(b"\n") and error.reason == "unexpected end of data" and len(raw) >= MAX_TEXT_CHARACTERS:
                text, carried = raw[: error.start].decode("utf-8"), raw[error.start :]
            else:
                raise UserError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8: "
                    "convert the file, for example with iconv -f latin1 -t utf-8"
                ) from error
        yield number, text
        number += raw.endswith(b"\n")
    if carried:
        raise UserError(f"{path}, line {number}: the file ends inside a UTF-8 character: it is cut short")


def _read_text(path: Path, stream: BinaryIO, line_by_line: bool, between_lines: str) -> Iterator[str]:
    """Documents are separated by blank lines, or are single lines."""
    paragraph, size = [], 0
    for _, line in _lines(path, stream):
        text = line.strip()
        if text:
            paragraph.append(text)
            size += len(text)
        cut_short = not line.endswith("\n")  # a piece of a very long line, or the last one
        if paragraph and (not text or line_by_line or cut_short or size >= MAX_TEXT_CHARACTERS):
            yield between_lines.join(paragraph)
            paragraph, size = [], 0
    if paragraph:
        yield between_lines.join(paragraph)


def _read_json_lines(path: Path, stream: BinaryIO, column: str) -> Iterator[str]:
    parts: list[str] = []
    for number, line in _lines(path, stream):
        parts.append(line)
        if not line.endswith("\n") and len(line) >= MAX_TEXT_CHARACTERS // 4:
            continue  # a piece of a very long line
        text = "".join(parts)
        parts.clear()
        if text.strip():
            yield from _text_of_json(path, number, text, column)
    if parts:
        yield from _text_of_json(path, number, "".join(parts), column)


def _text_of_json(path: Path, number: int, line: str, column: str) -> Iterator[str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{path}, line {number}: not JSON ({error}): expected one object a line, such as "
            f'{{"{column}": "..."}}; mend or remove the line'
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{path}, line {number}: found a {type(record).__name__}, expected one JSON object a line")
    if column not in record:
        raise UserError(unknown_column(f"{path}, line {number}", column, record))
    yield from text_of(f"{path}, line {number}", column, record[column])


def _read_csv(path: Path, stream: BinaryIO, column: str, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader((line for _, line in _lines(path, stream)), delimiter=delimiter)
    if column not in (reader.fieldnames or []):
        raise UserError(unknown_column(path, column, reader.fieldnames or []))
    for row in reader:
        if row[column] is None:
            raise UserError(f"{path}, line {reader.line_num}: found fewer fields than the header names: mend the line")
        yield from text_of(f"{path}, line {reader.line_num}", column, row[column])


def _read_columnar(path: Path, column: str) -> Iterator[str]:
    if column not in (names := columns_of(path)):
        raise UserError(unknown_column(path, column, names))
    for values in read_column(path, column):
        for value in values.to_pylist():
            yield from text_of(path, column, value)


def unknown_column(where: object, column: str, columns) -> str:
    """What to say where a column is missing."""
    names = ", ".join(map(str, columns)) or "none"
    return f"{where}: found no column {column!r}, only {names}: pass --text_column NAME"


def text_of(where: object, column: str, value: object) -> Iterator[str]:
    """The stripped text of a cell; nothing for an empty one. Raises UserError for what isn't text."""
    if value is None:
        return
    if not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} holds a {type(value).__name__}, expected text: pass --text_column")
    if text := value.strip():
        yield text
