"""Tables of the user's own: csv, tsv and json files as columns, with the place of each row for messages."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recipe.data.compression import READ_ERRORS, format_suffix, open_binary
from recipe.data.encodings import lines, whole_lines
from recipe.data.tables import DELIMITERS, read_rows
from recipe.system.errors import UserError

MISSING = object()  # value of a key that a row of a JSON file lacks


@dataclass(frozen=True)
class Table:
    """The columns of a file. `places` are the positions of its rows, such as "line 3". If `typed`, values have the
    types of JSON; otherwise they are text that may spell numbers."""

    source: str
    columns: dict[str, list]
    places: list[str]
    typed: bool = True

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        return f"{self.source}, {self.places[row]}"


def read_table(file: Path, delimiter: str | None = None, quoting: str = "auto", encoding: str | None = None) -> Table:
    """Loads a csv, tsv, json or jsonl file, compressed or not; None means the default of its suffix, and UTF-8.

    Raises UserError if it cannot be parsed, has no rows, or has two columns of one name.
    """
    kind = format_suffix(file)
    try:
        if kind in DELIMITERS:
            return _read_delimited(file, kind, delimiter, quoting, encoding)
        if kind in (".json", ".jsonl"):
            return _read_json(file, kind, encoding)
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read {file}: {reason}: expected a table") from error
    raise UserError(f"found the file {file}, expected .csv, .tsv, .json or .jsonl")


def _read_delimited(file: Path, kind: str, delimiter: str | None, quoting: str, encoding: str | None) -> Table:
    with open_binary(file) as stream:
        numbered = read_rows(file, kind, whole_lines(lines(file, stream, encoding)), delimiter, quoting)
        rows = list(numbered)
    if len(rows) < 2:
        raise UserError(f"{file} has no rows: expected a line with the names of the columns, then rows")
    header = [name.strip() for name in rows[0][1]]
    for name in header:
        if header.count(name) > 1:
            raise UserError(
                f"{file}: found {header.count(name)} columns called {name!r}, expected one: rename the others"
            )
    columns = {name: [cells[place] for _, cells in rows[1:]] for place, name in enumerate(header)}
    return Table(str(file), columns, [f"line {number}" for number, _ in rows[1:]], typed=False)


def _read_json(file: Path, kind: str, encoding: str | None) -> Table:
    with open_binary(file) as stream:
        numbered = list(whole_lines(lines(file, stream, encoding)))
    content = None
    if kind == ".json":
        try:
            content = json.loads("".join(line for _, line in numbered))
        except RecursionError as error:
            raise UserError(f"{file} is nested too deeply: expected rows, one object each") from error
        except ValueError:
            content = None  # one object per line, or not JSON
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if isinstance(content, dict) and content and all(isinstance(column, list | dict) for column in content.values()):
        return _table_of_columns(file, content)  # as DataFrame.to_json writes it
    if isinstance(content, list):
        records = [(f"row {number}", row) for number, row in enumerate(content)]
    else:
        records = [(f"line {number}", _parsed(line, file, number)) for number, line in numbered if line.strip()]
    return _table_of_records(file, records)


def _parsed(line: str, file: Path, number: int):
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "nested too deeply"
        raise UserError(
            f"{file}, line {number}: not JSON ({reason}): expected one object per line, or one list of them"
        ) from error


def _table_of_records(file: Path, records: Iterable[tuple[str, object]]) -> Table:
    places, rows = [], []
    for place, row in records:
        if not isinstance(row, dict):
            raise UserError(
                f"{file}, {place}: found a {type(row).__name__}, expected an object with a text and a label"
            )
        places.append(place)
        rows.append(row)
    if not rows:
        raise UserError(f"{file} has no rows: expected objects with a text and a label")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(str(file), {name: [row.get(name, MISSING) for row in rows] for name in names}, places)


def _table_of_columns(file: Path, content: dict) -> Table:
    columns = {name: list(column.values()) if isinstance(column, dict) else column for name, column in content.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1 or not min(sizes.values()):
        raise UserError(f"{file} has columns of {', '.join(f'{size} ({name})' for name, size in sizes.items())} rows")
    return Table(str(file), columns, [f"row {number}" for number in range(min(sizes.values()))])
