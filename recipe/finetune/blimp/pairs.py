"""Minimal pairs: two sentences that differ in one point of grammar, of which one is acceptable; read and grouped."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from recipe.finetune.tables import Table, read_table
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub, require_local_path

GOOD, BAD = "sentence_good", "sentence_bad"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class Paradigm:
    """Pairs that differ in the same way. `field` and `phenomenon` are those of linguistics, "" where unknown."""

    name: str
    field: str
    phenomenon: str
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True)
class Pairs:
    """All paradigms, in the order of their files, and how many pairs there are in all of the source."""

    source: str
    paradigms: tuple[Paradigm, ...]
    available: int

    def __len__(self) -> int:
        return sum(len(paradigm.good) for paradigm in self.paradigms)

    @property
    def digest(self) -> str:
        """The sha256 of the pairs."""
        listed = [(paradigm.name, paradigm.good, paradigm.bad) for paradigm in self.paradigms]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def read_pairs(source: str, limit: int | None = None, **hub_options) -> Pairs:
    """The pairs of a folder, a file or a hub dataset; with `limit`, the first ones of each paradigm, as many of each.

    Pairs are grouped by the column UID; without one, each file is a paradigm. Raises UserError for a folder without
    files, for a missing column and for a sentence that isn't text.
    """
    groups: dict[str, list[tuple[str, str, str, str]]] = {}
    for name, table in _tables(source, hub_options):
        for missing in (column for column in (GOOD, BAD) if column not in table.columns):
            found = ", ".join(table.columns) or "none"
            raise UserError(f"{table.source} has the columns {found}, expected {GOOD} and {BAD}: {missing} is missing")
        count = len(table.columns[GOOD])
        about = [table.columns.get(column, [""] * count) for column in ("UID", "field", "linguistics_term")]
        for row, (good, bad, *names) in enumerate(zip(table.columns[GOOD], table.columns[BAD], *about, strict=True)):
            for column, text in ((GOOD, good), (BAD, bad)):
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"{table.place(row)}: found {text!r} as {column}, expected a sentence")
            paradigm, field, phenomenon = (text if isinstance(text, str) else "" for text in names)
            groups.setdefault(paradigm or name, []).append((good, bad, _named(field), phenomenon))
    available = sum(map(len, groups.values()))
    if not available:
        raise UserError(f"{source} has no pair, expected rows with {GOOD} and {BAD}")
    most = limit if limit is None else -(-limit // len(groups))
    paradigms, left = [], available if limit is None else limit
    for name, rows in groups.items():
        rows = rows[: min(left, len(rows) if most is None else most)]
        left -= len(rows)
        if rows:
            good, bad, fields, phenomena = zip(*rows, strict=True)
            paradigms.append(Paradigm(name, fields[0], phenomena[0], good, bad))
    return Pairs(source, tuple(paradigms), available)


def _named(field: str) -> str:
    return field.replace("_", "/") if field == "syntax_semantics" else field


def _tables(source: str, hub_options: dict) -> list[tuple[str, Table]]:
    """(name, table) of each file, or of each config of a hub dataset."""
    require_local_path(source, "minimal pairs")
    if not is_local(source):
        return _hub_tables(source, hub_options)
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"found no file of pairs in {source}, expected some that end in {', '.join(SUFFIXES)}")
    return [(file.stem, read_table(file)) for file in files]


def _hub_tables(name: str, hub_options: dict) -> list[tuple[str, Table]]:
    require_hub(f"dataset {name}", "a folder of JSON-lines files as --blimp_data (BLIMP_DATA)")
    from datasets import get_dataset_config_names, load_dataset

    chosen = {key: value for key, value in hub_options.items() if key in ("cache_dir", "token")}
    try:
        configs = get_dataset_config_names(name, token=chosen.get("token"))
        parts = {config: load_dataset(name, config, split="train", **chosen) for config in configs}
    except Exception as error:  # datasets raises a dozen classes for "not found" and "no network"
        raise UserError(
            f"cannot load {name}: {(str(error).splitlines() or [''])[0]}: pass a folder as --blimp_data"
        ) from error
    return [
        (config, Table(f"{name} {config}", part.to_dict(), [f"row {row}" for row in range(len(part))]))
        for config, part in parts.items()
    ]
