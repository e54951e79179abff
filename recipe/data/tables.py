"""CSV and TSV files as rows: delimiters, quoting, and checks that a stray quote doesn't merge rows."""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from recipe.system.errors import UserError

QUOTING = ("auto", "minimal", "none")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "|"}
_SPELLINGS = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";"}
# A cell in quotes in which every quote is doubled: only a writer that quotes cells produces it.
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
LOOKS_LIKE_ROWS = 0.9  # least share of lines inside a cell that look like rows, for an error
MIN_LINES_WITHOUT_NUMBERS = 10  # where no column holds numbers; a few lines of prose look like rows by chance
MAX_LINES_UNCHECKED = 10_000  # of one row; bounds the memory taken by a quote that is never closed


def check_delimiter(text: str) -> str:
    """The one character that --csv_delimiter names; both `\\t` and `tab` stand for a tab. Raises UserError for
    others."""
    delimiter = _SPELLINGS.get(text, text)
    if len(delimiter) != 1 or delimiter in '"\r\n' or delimiter.isalnum():
        raise UserError(f"found --csv_delimiter {text!r}, expected one character, such as ';' or tab")
    return delimiter


def read_rows(
    path: Path, suffix: str, lines: Iterator[tuple[int, str]], delimiter: str | None = None, quoting: str = "auto"
) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) of each row of a file, the header first; empty lines are skipped.

    `suffix` (.csv, .tsv) decides the defaults. Without quoting (the default for .tsv), each line is a row and quotes
    are ordinary characters. With quoting (the default for .csv), a cell in quotes may hold delimiters, line breaks and
    doubled quotes; `auto` refuses a cell whose lines look like separate rows, `minimal` trusts the quotes.

    Raises UserError for a row with fewer or more cells than the header, apart from extra empty cells at its end; for
    unclosed quotes; and with `auto`, for a .tsv file that was written with quoting.
    """
    delimiter = check_delimiter(delimiter) if delimiter else DELIMITERS[suffix]
    quoted = quoting == "minimal" or (quoting == "auto" and suffix == ".csv")
    if quoted:
        rows = _quoted_rows(path, lines, delimiter, trusting=quoting == "minimal")
    else:
        rows = _plain_rows(path, lines, delimiter, trusting=quoting == "none")
    width, quotes = 0, False
    for number, row in rows:
        width = width or len(row)
        while len(row) > width and not row[-1]:
            row.pop()
        quotes = quotes or any(cell.startswith('"') for cell in row)
        if len(row) != width:
            more = "more" if len(row) > width else "fewer"
            remedy = "correct the line"
            if quoted and more == "more":
                remedy = "put cells that hold the delimiter in quotes"
            elif quotes and not quoted:
                remedy += ", or pass --csv_quoting minimal if quotes wrap cells that hold delimiters or line breaks"
            raise UserError(
                f"{path}, line {number}: found {more} fields than the header has, {len(row)} instead of {width}, "
                f"separated by {_NAMES.get(delimiter, delimiter)}: {remedy}"
            )
        yield number, row


def column_index(path: Path, header: list[str], column: str, delimiter: str | None, suffix: str) -> int:
    """The index of a column. Raises UserError, with the likely reason, where there is none or more than one."""
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise UserError(
            f"{path}: found {header.count(column)} columns called {column!r}, expected one: rename the others"
        )
    used = check_delimiter(delimiter) if delimiter else DELIMITERS[suffix]
    for other in _NAMES:
        if other != used and other in used.join(header):
            names = [name.strip().strip('"') for name in used.join(header).split(other)]
            if column in names or len(header) == 1:
                spelled = "tab" if other == "\t" else f"'{other}'"
                raise UserError(
                    f"{path}: found no column {column!r}; its cells seem to be separated by {_NAMES[other]}, not by "
                    f"{_NAMES.get(used, used)}: pass --csv_delimiter {spelled}"
                )
    if f'"{column}"' in header:
        raise UserError(f"{path}: found the column names in quotes: pass --csv_quoting minimal")
    names = ", ".join(_shortened(name) for name in header) or "nothing"
    raise UserError(
        f"{path}: found no column {column!r}, only {names}: pass --text_column NAME, or put a line with the names of "
        "the columns first"
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]} ..."


def _plain_rows(path: Path, lines: Iterator[tuple[int, str]], delimiter: str, trusting: bool):
    for number, line in lines:
        if not (line := line.rstrip("\r\n")):
            continue
        row = line.split(delimiter)
        if not trusting and '""' in line and any(map(_QUOTED.fullmatch, row)):
            raise UserError(
                f"{path}, line {number}: found a cell in quotes with doubled quotes inside, as files written with "
                "quoting have: pass --csv_quoting minimal, or none if these quotes are text"
            )
        yield number, row


def _quoted_rows(path: Path, lines: Iterator[tuple[int, str]], delimiter: str, trusting: bool):
    csv.field_size_limit(sys.maxsize)
    record: list[str] = []  # the lines of the next row
    last = width = 0

    def recorded() -> Iterator[str]:
        nonlocal last
        for last, line in lines:
            record.append(line)
            if len(record) == MAX_LINES_UNCHECKED and not trusting:
                _require_no_rows_inside(path, last - len(record) + 1, record, delimiter, width)
            yield line

    reader = csv.reader(recorded(), delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            begin = last - len(record) + 1
            where = f"line {begin}" if len(record) == 1 else f"lines {begin} to {last}"
            if "new-line" in str(error):
                raise UserError(
                    f"{path}, {where}: found a carriage return inside a line, expected lines that end in \\n or "
                    "\\r\\n: convert the file, for example with mac2unix"
                ) from error
            what = "is opened and never closed" if "end of data" in str(error) else f"is misplaced ({error})"
            raise UserError(
                f"{path}, {where}: a quote {what}: double the quotes inside quoted cells, or pass --csv_quoting none "
                "if quotes are plain text"
            ) from error
        if len(record) > 1 and not trusting:
            _require_no_rows_inside(path, last - len(record) + 1, record, delimiter, width)
        begin = last - len(record) + 1
        record.clear()
        width = width or len(row)
        if row:
            yield begin, row


def _require_no_rows_inside(path: Path, number: int, record: list[str], delimiter: str, width: int) -> None:
    """Raises UserError where the lines of one row look like separate rows: each has `width` cells, with numbers in the
    same columns; where no column holds numbers, at least MIN_LINES_WITHOUT_NUMBERS lines are required.

    In an intended multi-line cell, the first line also holds the cells before it and the last line those after it.
    So unless these two lines have fewer delimiters in their text than the other lines, their numbers of cells differ
    from `width`.
    """
    rows = [line.rstrip("\r\n").split(delimiter) for line in record]
    if width < 2 or len(rows[0]) != width or len(rows[-1]) != width:
        return
    numbers = [place for place, cell in enumerate(rows[0]) if _is_number(cell)]
    alike = sum(len(row) == width and all(_is_number(row[place]) for place in numbers) for row in rows)
    enough = len(rows) if len(rows) < 10 else LOOKS_LIKE_ROWS * len(rows)
    if alike >= enough and (numbers or len(rows) >= MIN_LINES_WITHOUT_NUMBERS):
        raise UserError(
            f"{path}, line {number}: a quote opens a cell that ends on line {number + len(record) - 1}, and its lines "
            "look like separate rows: correct the quote; or pass --csv_quoting none if quotes are plain text, minimal "
            "if the cell is intended"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
