"""Which files at a path are training text, which are validation text, and which are passed over and why."""

import glob
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from recipe.data.columnar import saved_dataset
from recipe.data.compression import COMPRESSIONS, PLAIN_OR_COMPRESSED
from recipe.data.text_files import EXPECTED_FORMATS, RECORDS, WHOLE_FILES, format_of
from recipe.system.errors import UserError

# A name belongs to a split where the split's word stands at its beginning, and then - _ . or a digit, or nothing:
# train-00000-of-00002, dev_matched, valid.en, test2; but training_of_apostles, devotions, validity and testament
# are only titles.
_SPLIT = re.compile(r"(?:(train)|(valid|validation|val|dev|eval)|(test))(?=[-_.\d]|$)", re.IGNORECASE)
_SPLITS = ("train", "validation", "test")
ENDINGS_NAMED = 8


@dataclass
class Splits:
    """Files by split, in order; `passed_over` counts the others by what they are."""

    train: list[Path]
    validation: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Three lines: the files and bytes of either split by ending, and what was passed over; none without files."""
        if not self.train:
            return []
        passed = _counted(self.passed_over)
        validation = _amount(self.validation) if self.validation else "documents drawn from those for training"
        return [
            f"for training: {_amount(self.train)}",
            f"for validation: {validation}",
            f"passed over: {passed or 'nothing'}",
        ]


def _counted(passed: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in passed.items())


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name says it belongs to: train, validation, test, or None."""
    found = _SPLIT.match(name)
    return _SPLITS[found.lastindex - 1] if found else None


def find_splits(path: str, keep_all: bool = False) -> Splits:
    """The files at `path` (a file, a folder or a glob) by split; with `keep_all` all of them are training text.

    The splits of a dataset of save_to_disk go by their names. Of other folders, hidden files, empty ones and those of
    unknown endings are passed over. Where files of records (.jsonl, .parquet ...) lie beside source code and markup,
    only the records are text, which the others describe; or only the others, where they are a source tree. Files of
    text and records go to the split that their name or a folder above them names, others are training text; where some
    are named train, only they are. Source code and markup go by the folder alone, and only where one is called train:
    test_x.py is a program. Raises UserError where nothing is left.
    """
    root = Path(path).expanduser()
    if root.is_dir() and (saved := saved_dataset(root)):
        return _of_saved(root, saved, keep_all)
    if root.is_file():
        if format_of(root) is None:
            raise UserError(f"{path} has an unknown format: expected one of {EXPECTED_FORMATS}, {PLAIN_OR_COMPRESSED}")
        return Splits([root])
    passed: Counter[str] = Counter()
    base, candidates = _candidates(root)
    files = _usable(base, candidates, passed)
    files = _of_one_kind(files, passed)
    if not files:
        found = f" ({_counted(passed)})" if passed else ""
        raise UserError(
            f"found no text at {path}{found}: expected a file, a folder or a glob of "
            f"{EXPECTED_FORMATS}, {PLAIN_OR_COMPRESSED}"
        )
    if keep_all or len(files) == 1:
        return Splits(files, [], passed)
    folders = {file: [part for part in file.relative_to(base).parts[:-1] if split_of(part)] for file in files}
    laid_out = any(split_of(part) == "train" for parts in folders.values() for part in parts)
    named = {}
    for file, parts in folders.items():
        above = split_of(parts[-1]) if parts else None
        if format_of(file) in WHOLE_FILES:
            named[file] = above if laid_out else None
        else:
            named[file] = split_of(file.name) or above
    return _by_split(named, passed)


def _of_saved(root: Path, saved: dict[str, list[Path]], keep_all: bool) -> Splits:
    named = {name: None if keep_all or len(saved) == 1 else split_of(name) for name in saved}
    return _by_split({file: named[name] for name, files in saved.items() for file in files}, Counter())


def _by_split(named: dict[Path, str | None], passed: Counter[str]) -> Splits:
    splits = Splits([], [], passed)
    only_named = "train" in named.values()
    for file, split in named.items():
        if split == "validation":
            splits.validation.append(file)
        elif split == "test":
            passed["of a test split"] += 1
        elif split is None and only_named:
            passed[f"{_ending(file)} not named train, as others are"] += 1
        else:
            splits.train.append(file)
    if not splits.train:
        first = next(iter(named))
        raise UserError(f"found only validation or test files beside {first}: name the training text's files train*")
    return splits


def _candidates(path: Path) -> tuple[Path, list[Path]]:
    """(folder, files under it) that a folder or a glob names."""
    if path.is_dir():
        return path, sorted(path.rglob("*"))
    fixed = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed), [Path(name) for name in sorted(glob.iglob(str(path), recursive=True))]


def _usable(base: Path, candidates: Iterable[Path], passed: Counter[str]) -> list[Path]:
    """The files of known endings that are neither hidden nor empty; the others are counted."""
    files, unknown = [], Counter()
    for file in candidates:
        if not file.is_file():
            continue
        inside = file.relative_to(base).parts if file.is_relative_to(base) else (file.name,)
        if any(part.startswith(".") or part == "__MACOSX" for part in inside):
            passed["hidden"] += 1
        elif format_of(file) is None:
            unknown[_ending(file)] += 1
        elif file.stat().st_size == 0:
            passed["empty"] += 1
        else:
            files.append(file)
    passed.update(dict(unknown.most_common(ENDINGS_NAMED)))
    if others := unknown.most_common()[ENDINGS_NAMED:]:
        passed[f"of {len(others)} other endings"] = sum(count for _, count in others)
    return files


def _of_one_kind(files: list[Path], passed: Counter[str]) -> list[Path]:
    """The files without those of records, or without source code and markup, where there are both. The records go where
    the others are more in number and in bytes, not counting a README."""
    records = [file for file in files if format_of(file) in RECORDS]
    whole = [file for file in files if format_of(file) in WHOLE_FILES]
    if not records or not whole:
        return files
    tree = [file for file in whole if not file.name.lower().startswith("readme")]
    is_tree = len(tree) > len(records) and _size(tree) > _size(records)
    dropped, what = (
        (records, "of records beside source code") if is_tree else (whole, "of code beside files of records")
    )
    kinds = Counter(map(_ending, dropped)).most_common(ENDINGS_NAMED)
    passed[f"{what} ({', '.join(f'{count:,} {ending}' for ending, count in kinds)})"] = len(dropped)
    return [file for file in files if file not in set(dropped)]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _ending(file: Path) -> str:
    suffixes = file.suffixes
    if suffixes and suffixes[-1].lower() in COMPRESSIONS:
        return "".join(suffixes[-2:]).lower()
    return suffixes[-1].lower() if suffixes else "without an ending"


def _amount(files: list[Path]) -> str:
    counts, sizes = Counter(map(_ending, files)), Counter()
    for file in files:
        sizes[_ending(file)] += file.stat().st_size
    named = counts.most_common(ENDINGS_NAMED)
    kinds = ", ".join(f"{count:,} {ending} {_bytes(sizes[ending])}" for ending, count in named)
    if len(counts) > ENDINGS_NAMED:
        kinds += f" and {len(counts) - ENDINGS_NAMED} other endings"
    total = f"{len(files):,} file{'s' * (len(files) != 1)}, {_bytes(sizes.total())}"
    return f"{total} ({kinds})" if len(counts) > 1 else f"{total} ({next(iter(counts))})"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
