"""Classification data of the user's own: loads csv, tsv and json files and finds their text and label columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.data.surrogates import without_surrogates
from recipe.data.tables import DELIMITERS
from recipe.finetune.glue.labels import Labelling, SavedLabels, labelling_of, parse_label
from recipe.finetune.glue.rows import Rows, TaskRows
from recipe.finetune.tables import MISSING, Table, read_table
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


@dataclass(frozen=True)
class OwnOptions:
    """How to parse the files; None and () mean: infer it from the files."""

    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    labels: tuple[str, ...] = ()  # the classes in the order of their ids
    regression: bool | None = None
    delimiter: str | None = None
    quoting: str = "auto"
    encoding: str | None = None
    task_file: Path | None = None  # where the columns are named, if not by flags


def read_files(
    files: Mapping[str, str | None], options: OwnOptions = OwnOptions(), saved: SavedLabels | None = None
) -> TaskRows:
    """Loads the splits of csv, tsv, json or jsonl files, {split: path}. Classes are numbered in the sorted order of the
    training file's labels; without one, as in the checkpoint, `saved`.

    Raises UserError, with the line or row, for a file that cannot be parsed, a row with too many or too few fields,
    ambiguous columns, a missing text, and labels as in recipe.finetune.glue.labels.
    """
    tables = {
        split: read_table(Path(name).expanduser(), options.delimiter, options.quoting, options.encoding)
        for split, name in files.items()
        if name
    }
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
            _require_column(table, name, "texts", options)
    labelled = {split: table for split, table in tables.items() if split != "test" and label in table.columns}
    if (not labelled and set(tables) - {"test"}) or "train" in set(tables) - set(labelled):
        _require_column(tables.get("train", first), label, "label", options)
    labelling = _labelling(labelled, options, label, saved)
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


def _labelling(tables: dict[str, Table], options: OwnOptions, label: str, saved: SavedLabels | None) -> Labelling:
    """The labelling: as `options` say, else from the training file, the checkpoint, or the first file."""
    if options.labels:
        return Labelling(options.labels, casefolded=True)
    if not tables:
        return labelling_of([], [], "", options.regression, saved)
    table = next(iter(tables.values()))
    values = _labels(table, label)
    places = [table.place(row) for row in range(len(values))]
    return labelling_of(values, places, table.source, options.regression, None if "train" in tables else saved)


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


_FLAGS = {"texts": "--text_columns", "label": "--label_column"}


def _require_column(table: Table, name: str, key: str, options: OwnOptions) -> None:
    if name not in table.columns:
        found = ", ".join(table.columns) or "none"
        remedy = f"correct {key!r} in {options.task_file}" if options.task_file else f"pass {_FLAGS[key]} NAME"
        raise UserError(f"{table.source} has the columns {found}, expected one called {name!r}: {remedy}")


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
