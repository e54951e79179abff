"""CSV and TSV files as rows: which character separates cells, what quotes mean, and that no quote swallows rows."""

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
# A cell that only a writer with quoting makes: in quotes, and every quote inside of it doubled.
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
LOOKS_LIKE_ROWS = 0.9  # share of the lines inside a cell that must read as rows
LINES_WITHOUT_NUMBERS = 10  # with columns of prose alone, chance gives a few lines the right number of delimiters
LINES_AT_MOST = 10_000  # of one row before it is looked at: memory stays bounded when a quote is never closed


def check_delimiter(text: str) -> str:
    """The one character that --csv_delimiter names; `\\t` and `tab` are a tab."""
    delimiter = _SPELLINGS.get(text, text)
    if len(delimiter) != 1 or delimiter in '"\r\n' or delimiter.isalnum():
        raise UserError(f"found --csv_delimiter {text!r}, expected one character, such as ';' or tab")
    return delimiter


def read_rows(
    path: Path, ending: str, lines: Iterator[tuple[int, str]], delimiter: str | None = None, quoting: str = "auto"
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row of a file, the header first; empty lines are no rows.

    `ending` (.csv, .tsv) decides what isn't given. Without quoting, each line is a row and a quote is a letter (what
    .tsv files are by default). With it (.csv), a cell in quotes may hold delimiters, line breaks and doubled quotes;
    `auto` refuses a cell whose line breaks look like those between rows, `minimal` trusts the quotes.

    Raises UserError for a row with fewer or more cells than the header (empty ones at its end but for that), for quotes
    that aren't closed, and, without being told, for a .tsv that was written with quoting.
    """
    delimiter = check_delimiter(delimiter) if delimiter else DELIMITERS[ending]
    quoted = quoting == "minimal" or (quoting == "auto" and ending == ".csv")
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
            remedy = "mend the line"
            if quoted and more == "more":
                remedy = "put cells that hold the delimiter in quotes"
            elif quotes and not quoted:
                remedy += ", or pass --csv_quoting minimal if quotes wrap cells that hold delimiters or line breaks"
            raise UserError(
                f"{path}, line {number}: found {more} fields than the header names, {len(row)} in place of {width}, "
                f"separated by {_NAMES.get(delimiter, delimiter)}: {remedy}"
            )
        yield number, row


def column_of(path: Path, header: list[str], column: str, delimiter: str | None, ending: str) -> int:
    """The place of a column. Raises UserError where there is none, or two, with the likely reason."""
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise UserError(
            f"{path}: found {header.count(column)} columns called {column!r}, expected one: rename the others"
        )
    used = check_delimiter(delimiter) if delimiter else DELIMITERS[ending]
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
    names = ", ".join(_short(name) for name in header) or "nothing"
    raise UserError(
        f"{path}: found no column {column!r}, only {names}: pass --text_column NAME, or put a line with the names of "
        "the columns first"
    )


def _short(name: str) -> str:
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
    record: list[str] = []  # the lines that the next row is made of
    last = width = 0

    def fed() -> Iterator[str]:
        nonlocal last
        for last, line in lines:
            record.append(line)
            if len(record) == LINES_AT_MOST and not trusting:
                _require_no_rows_inside(path, last - len(record) + 1, record, delimiter, width)
            yield line

    reader = csv.reader(fed(), delimiter=delimiter, strict=True)
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
                f"{path}, {where}: a quote {what}: write quotes inside a quoted cell twice, or pass --csv_quoting none "
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
    """Raises UserError where the lines of one row look like rows of their own: `width` cells in each of them, and
    numbers in the same columns; or, where no column holds numbers, so many cells in a good number of lines.

    The first line of a cell that is meant so has the cells before it, the last one those after it: in one of the two
    there is a delimiter too many, unless the text has fewer than its other lines there."""
    rows = [line.rstrip("\r\n").split(delimiter) for line in record]
    if width < 2 or len(rows[0]) != width or len(rows[-1]) != width:
        return
    numbers = [place for place, cell in enumerate(rows[0]) if _is_number(cell)]
    alike = sum(len(row) == width and all(_is_number(row[place]) for place in numbers) for row in rows)
    enough = len(rows) if len(rows) < 10 else LOOKS_LIKE_ROWS * len(rows)
    if alike >= enough and (numbers or len(rows) >= LINES_WITHOUT_NUMBERS):
        raise UserError(
            f"{path}, line {number}: a quote opens a cell that goes on to line {number + len(record) - 1}, over lines "
            "that look like rows of their own: mend the quote; or pass --csv_quoting none if quotes are plain text, "
            "minimal if the cell is meant so"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
