"""Files as documents: text, source code and markup, JSON lines, CSV, TSV, parquet and Arrow.

What a document is, by suffix:
.txt                        a paragraph (blank lines separate paragraphs), or a line with `line_by_line`; white space at
                            line ends is dropped, spaces and tabs at their beginning are kept
.py .md .html ...           the complete file (see SOURCE_FILES), with its indentation and empty lines
.jsonl .json                one field of each line's object
.csv .tsv .parquet .arrow   one column of each row
A field `a.b` is the field b inside of the field a, unless a field is named `a.b` itself. A list of strings is one
document, with an empty line between the strings. White space at both ends of a field is dropped. Text documents are
split after a million characters.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipe.data.columnar import COLUMNAR, columns_of, read_column
from recipe.data.compression import COMPRESSIONS, READ_ERRORS, format_suffix, open_binary
from recipe.data.encodings import MAX_TEXT_CHARACTERS, lines, whole_lines
from recipe.data.meter import Meter
from recipe.data.tables import DELIMITERS, column_index, read_rows
from recipe.system.errors import UserError

RECORDS = (".jsonl", ".json", *DELIMITERS, *COLUMNAR)  # one document per record
SOURCE_FILES = (".md", ".markdown", ".rst", ".html", ".htm", ".xml", ".tex", ".py", ".pyi", ".c", ".h", ".cc", ".cpp",
               ".hpp", ".cs", ".css", ".go", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".php", ".pl", ".r", ".rb",
               ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx")  # fmt: skip
FORMATS = (".txt", *RECORDS, *SOURCE_FILES)
EXPECTED_FORMATS = f".txt {' '.join(RECORDS)}, or source code and markup such as .py .md .rst .html .xml .tex"
INDENTATION = " \t"
_MISSING = object()


def format_of(path: Path) -> str | None:
    """The suffix of a file in lower case, without that of a compression, if it is one of FORMATS; None otherwise."""
    suffix = format_suffix(path)
    return suffix if suffix in FORMATS else None


def read_documents(
    path: Path,
    text_column: str,
    line_by_line: bool,
    keep_linebreaks: bool = True,
    text_encoding: str | None = None,
    csv_delimiter: str | None = None,
    csv_quoting: str = "auto",
    meter: Meter | None = None,
) -> Iterator[str]:
    """Yields the documents of a file, in order; "" for a record without text (null or blank). `meter` counts the bytes
    read.

    Raises UserError, with the line where there is one, for a file that can't be read.
    """
    kind = format_of(path)
    try:
        if kind in COLUMNAR:
            yield from _read_columnar(path, text_column, meter)
            return
        with open_binary(path, meter) as stream:
            pieces = lines(path, stream, text_encoding)
            if kind == ".txt" or (kind in SOURCE_FILES and line_by_line):
                yield from _read_text(pieces, line_by_line, keep_linebreaks)
            elif kind in SOURCE_FILES:
                yield from _read_whole(pieces)
            elif kind in DELIMITERS:
                rows = read_rows(path, kind, whole_lines(pieces), csv_delimiter, csv_quoting)
                yield from _read_table(path, rows, text_column, csv_delimiter, kind)
            else:
                yield from _read_json_lines(path, pieces, text_column)
    except (csv.Error, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}: correct the file") from error
    except READ_ERRORS as error:
        if path.suffix.lower() in COMPRESSIONS and getattr(error, "errno", None) is None:
            raise UserError(f"{path} is damaged or incomplete ({error}): compress or download it again") from error
        raise UserError(f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}") from error


# ---- text


def _read_text(pieces: Iterable[tuple[int, str]], line_by_line: bool, keep_linebreaks: bool) -> Iterator[str]:
    """Documents are separated by blank lines, or are single lines."""
    paragraph: list[str] = []
    size, inside = 0, False  # `inside`: the piece continues the line of the piece before
    for _, line in pieces:
        text = line.strip()
        if text:
            paragraph.append(text if inside or not keep_linebreaks else _indentation(line) + text)
            size += len(text)
        inside = not line.endswith("\n")  # a piece of a very long line, or the file's last line
        if paragraph and (not text or line_by_line or inside or size >= MAX_TEXT_CHARACTERS):
            yield _joined(paragraph, keep_linebreaks)
            paragraph, size = [], 0
    if paragraph:
        yield _joined(paragraph, keep_linebreaks)


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(INDENTATION))]


def _joined(paragraph: list[str], keep_linebreaks: bool) -> str:
    """The lines as one document. One space before every line isn't indentation: WikiText has it everywhere."""
    if not keep_linebreaks:
        return " ".join(paragraph)
    if all(line.startswith(" ") for line in paragraph) and any(_indentation(line) == " " for line in paragraph):
        paragraph = [line[1:] for line in paragraph]
    return "\n".join(paragraph)


def _read_whole(pieces: Iterable[tuple[int, str]]) -> Iterator[str]:
    """One document, or several where it is longer than MAX_TEXT_CHARACTERS, without empty lines at both ends."""
    parts: list[str] = []
    size = 0
    for _, line in pieces:
        if not parts and not line.strip():
            continue
        ended = line.endswith("\n")
        parts.append(line.rstrip("\r\n") + "\n" if ended else line)
        size += len(line)
        if size >= MAX_TEXT_CHARACTERS:
            yield "".join(parts).rstrip()
            parts, size = [], 0
    if parts:
        yield "".join(parts).rstrip()


# ---- records


def _read_json_lines(path: Path, pieces: Iterable[tuple[int, str]], column: str) -> Iterator[str]:
    for number, line in whole_lines(pieces):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            ends_early = isinstance(error, json.JSONDecodeError) and error.pos >= len(line.rstrip())
            if number == 1 and line.lstrip().startswith(("[", "{")) and ends_early:
                raise UserError(
                    f"{path} is one JSON value over many lines, expected one object per line: convert it with "
                    f"jq -c {_jq(line)} {path.name} > {path.stem}.jsonl"
                ) from error
            raise UserError(
                f"{where}: not JSON ({error}): expected one object per line, such as "
                f'{{"{column}": "..."}}; correct or remove the line'
            ) from error
        if isinstance(record, list) and number == 1:
            raise UserError(
                f"{where}: found a list, expected one JSON object per line: convert it with "
                f"jq -c {_jq(line)} {path.name} > {path.stem}.jsonl"
            )
        if not isinstance(record, dict):
            raise UserError(f"{where}: found a {type(record).__name__}, expected one JSON object per line")
        yield text_of(where, column, field_of(where, column, record))


def _jq(line: str) -> str:
    return "'.[]'" if line.strip().startswith("[") else "."


def _read_table(
    path: Path, rows: Iterator[tuple[int, list[str]]], column: str, delimiter: str | None, kind: str
) -> Iterator[str]:
    _, header = next(rows, (0, []))
    index = column_index(path, header, column, delimiter, kind)
    for number, row in rows:
        yield text_of(f"{path}, line {number}", column, row[index])


def _read_columnar(path: Path, column: str, meter: Meter | None) -> Iterator[str]:
    names = columns_of(path)
    outer = column if column in names else column.split(".")[0]
    if outer not in names:
        raise UserError(unknown_column(path, column, names))
    number = 0
    for values in read_column(path, outer, meter=meter):
        for value in values.to_pylist():
            where = f"{path}, row {number}"
            yield text_of(where, column, field_of(where, column, {outer: value}, names))
            number += 1


def field_of(where: object, column: str, record: dict, names: list[str] | None = None) -> object:
    """The field named `column`; for `a.b`, the field b inside of the field a, or of each item where a is a list. None
    where a field on the way is null.

    Raises UserError where there is no such field; its message lists `names`, by default those of `record`.
    """
    found = _inside(record, column)
    if found is _MISSING:
        raise UserError(unknown_column(where, column, names or _names(record)))
    return found


def _inside(value: object, column: str) -> object:
    if value is None:
        return None
    if isinstance(value, list):
        items = [_inside(item, column) for item in value]
        return _MISSING if any(item is _MISSING for item in items) else items
    if not isinstance(value, dict):
        return _MISSING
    if column in value:
        return value[column]
    name, _, rest = column.partition(".")
    return _inside(value[name], rest) if rest and name in value else _MISSING


def _names(record: dict) -> list[str]:
    """The names of a record's fields; those of nested records as `a.b`."""
    return [
        inner
        for name, value in record.items()
        for inner in ([f"{name}.{key}" for key in value] if isinstance(value, dict) and value else [name])
    ]


def unknown_column(where: object, column: str, columns: Iterable) -> str:
    """The message for a missing column."""
    names = ", ".join(map(str, columns)) or "none"
    return f"{where}: found no column {column!r}, only {names}: pass --text_column NAME"


def text_of(where: object, column: str, value: object) -> str:
    """The text of a cell without white space at both ends; "" for a null or blank cell. A list of strings is one text,
    with an empty line between the strings. Raises UserError for anything else."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n\n".join(filter(None, (text_of(where, column, item) for item in value)))
    if not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} holds a {type(value).__name__}, expected text: pass --text_column")
    return value.strip()
