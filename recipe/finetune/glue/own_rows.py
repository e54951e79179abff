"""Classification data of the user's own: loads csv, tsv and json files and finds their text and label columns."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.data.compression import READ_ERRORS, format_suffix, open_binary
from recipe.data.encodings import lines, whole_lines
from recipe.data.surrogates import without_surrogates
from recipe.data.tables import DELIMITERS, read_rows
from recipe.finetune.glue.labels import Labelling, SavedLabels, labelling_of, parse_label
from recipe.finetune.glue.rows import Rows, TaskRows
from recipe.system.errors import UserError

LABEL = "label"
# Column names of text pairs; the first pair in a file is used. Other names need --text_columns.
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
)
INDEX = ("idx", "index", "id", "guid", "")  # names of a column of row numbers; pandas writes it without a name
MISSING = object()  # value of a key that a row of a JSON file lacks


@dataclass(frozen=True)
class OwnOptions:
    """How to parse the files; None and () mean: infer it from the files."""

    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    regression: bool | None = None
    delimiter: str | None = None
    quoting: str = "auto"
    encoding: str | None = None


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


def read_files(
    files: Mapping[str, str | None], options: OwnOptions = OwnOptions(), saved: SavedLabels | None = None
) -> TaskRows:
    """Loads the splits of csv, tsv, json or jsonl files, {split: path}. Classes are numbered in the sorted order of the
    training file's labels; without one, as in the checkpoint, `saved`.

    Raises UserError, with the line or row, for a file that cannot be parsed, a row with too many or too few fields,
    ambiguous columns, a missing text, and labels as in recipe.finetune.glue.labels.
    """
    tables = {split: read_table(Path(name).expanduser(), options) for split, name in files.items() if name}
    return from_tables(tables, options, saved)


def from_tables(
    tables: dict[str, Table], options: OwnOptions = OwnOptions(), saved: SavedLabels | None = None
) -> TaskRows:
    """The same for tables that are already loaded."""
    first = next(iter(tables.values()))
    label = options.label_column or LABEL
    texts = options.text_columns or _choose_texts(first, label)
    for table in tables.values():
        for name in texts:
            _require_column(table, name, "--text_columns")
    labelled = {split: table for split, table in tables.items() if split != "test" and label in table.columns}
    if (not labelled and set(tables) - {"test"}) or "train" in set(tables) - set(labelled):
        _require_column(tables.get("train", first), label, "--label_column")
    labelling = _labelling(labelled, label, options.regression, saved)
    splits = {}
    for split, table in tables.items():
        labels = None
        if split in labelled:
            if options.quoting == "auto" and not table.typed:
                _require_no_swallowed_rows(table, texts, label, labelling, options.delimiter)
            labels = [labelling.read(value, table.place(n)) for n, value in enumerate(_labels(table, label))]
        columns, replaced = _texts(table, texts)
        splits[split] = Rows(columns, labels, table.source, index=_index(table) if split == "test" else None,
                             replaced=replaced)  # fmt: skip
    text_columns = " and ".join(texts)
    notes = (f"columns    text: {text_columns}" + (f"; label: {label}" if labelled else ""), *labelling.notes)
    return TaskRows(splits, labelling.names, notes)


def _labelling(tables: dict[str, Table], label: str, regression: bool | None, saved: SavedLabels | None) -> Labelling:
    """The labelling: from the training file, else from the checkpoint, else from the first file."""
    if not tables:
        return labelling_of([], [], "", regression, saved)
    table = next(iter(tables.values()))
    values = _labels(table, label)
    places = [table.place(row) for row in range(len(values))]
    return labelling_of(values, places, table.source, regression, None if "train" in tables else saved)


def _labels(table: Table, label: str) -> list:
    """The labels of a file as strings and numbers."""
    return [parse_label(value, table.typed, table.place(row)) for row, value in enumerate(table.columns[label])]


# ---- columns


def _choose_texts(table: Table, label: str) -> tuple[str, ...]:
    """The text columns by default. Raises UserError if there are none or the choice is ambiguous."""
    for pair in PAIRS:
        if all(name in table.columns for name in pair):
            return pair
    others = [name for name in table.columns if name != label and name.lower() not in INDEX]
    if len(others) == 1:
        return (others[0],)
    found = ", ".join(table.columns)
    if not others:
        raise UserError(f"{table.source} has the columns {found}, expected a text column beside {label!r}")
    raise UserError(
        f"{table.source} has the columns {found}: pass --text_columns {others[0]} to classify that one, or "
        f"--text_columns {others[0]},{others[1]} to classify the two as a pair"
    )


def _require_column(table: Table, name: str, flag: str) -> None:
    if name not in table.columns:
        found = ", ".join(table.columns) or "none"
        raise UserError(f"{table.source} has the columns {found}, expected one called {name!r}: pass {flag} NAME")


def _texts(table: Table, names: tuple[str, ...]) -> tuple[tuple[list[str], ...], int]:
    """The text columns, and the number of lone surrogates replaced in them."""
    columns, replaced = [], 0
    for name in names:
        texts = []
        for row, value in enumerate(table.columns[name]):
            text, count = without_surrogates(_text(value, name, table.place(row)))
            texts.append(text)
            replaced += count
        columns.append(texts)
    return tuple(columns), replaced


def _text(value, name: str, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and value == value:
        return str(value)
    found = "nothing" if value is MISSING or value is None or value != value else f"a {type(value).__name__}"
    raise UserError(f"{place}: found {found} in the column {name!r}, expected a text")


def _index(table: Table) -> tuple[str, ...] | None:
    """The row numbers in a file; None if it has none."""
    name = next((name for name in table.columns if name.lower() in INDEX), None)
    return None if name is None else tuple(str(value) for value in table.columns[name])


def _require_no_swallowed_rows(
    table: Table, texts: tuple[str, ...], label: str, labelling: Labelling, delimiter: str | None
) -> None:
    """Raises UserError if a quoted text contains a line that looks like a row: the right number of fields and a known
    label. recipe.data.tables checks the number of fields only, since it doesn't know the labels."""
    names = list(table.columns)
    label_index = names.index(label)
    delimiter = delimiter or DELIMITERS.get(Path(table.source).suffix, ",")
    for name in texts:
        for row, value in enumerate(table.columns[name]):
            for line in value.splitlines()[1:-1]:
                fields = line.split(delimiter)
                if len(fields) == len(names) and labelling.knows(fields[label_index].strip()):
                    raise UserError(
                        f"{table.place(row)}: a quote opens a text that holds {line[:60]!r}, which looks like a row: "
                        "correct the quote, or pass --csv_quoting none if quotes are text, minimal if this is one text"
                    )


# ---- files


def read_table(file: Path, options: OwnOptions = OwnOptions()) -> Table:
    """Loads one file. Raises UserError if it cannot be parsed, has no rows, or has two columns of one name."""
    kind = format_suffix(file)
    try:
        if kind in DELIMITERS:
            return _read_delimited(file, kind, options)
        if kind in (".json", ".jsonl"):
            return _read_json(file, kind, options)
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read {file}: {reason}: expected a table with a column {LABEL!r}") from error
    raise UserError(f"found the file {file}, expected .csv, .tsv, .json or .jsonl")


def _read_delimited(file: Path, kind: str, options: OwnOptions) -> Table:
    with open_binary(file) as stream:
        numbered = read_rows(
            file, kind, whole_lines(lines(file, stream, options.encoding)), options.delimiter, options.quoting
        )
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


def _read_json(file: Path, kind: str, options: OwnOptions) -> Table:
    with open_binary(file) as stream:
        numbered = list(whole_lines(lines(file, stream, options.encoding)))
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
