"""Train and validation splits of the files at a path, and which files are skipped and why."""

import glob
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from recipe.data.columnar import saved_dataset
from recipe.data.compression import COMPRESSIONS, PLAIN_OR_COMPRESSED
from recipe.data.text_files import EXPECTED_FORMATS, RECORDS, SOURCE_FILES, format_of
from recipe.system.errors import UserError

# A name belongs to a split if it begins with the split's word, followed by - _ . or a digit or nothing more:
# train-00000-of-00002, dev_matched, valid.en and test2 do; training_of_apostles, devotions, validity and testament
# don't.
_SPLIT = re.compile(r"(?:(train)|(valid|validation|val|dev|eval)|(test))(?=[-_.\d]|$)", re.IGNORECASE)
_SPLITS = ("train", "validation", "test")
MAX_SUFFIXES_LISTED = 8


@dataclass
class Splits:
    """The files of each split, in order; `skipped` counts all other files by the reason."""

    train: list[Path]
    validation: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Three lines to print: files and bytes of both splits by suffix, and what is skipped; [] without files."""
        if not self.train:
            return []
        validation = _summary(self.validation) if self.validation else "documents drawn from those for training"
        return [
            f"for training: {_summary(self.train)}",
            f"for validation: {validation}",
            f"skipped: {_listed(self.skipped) or 'nothing'}",
        ]


def _listed(skipped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in skipped.items())


def split_of(name: str) -> str | None:
    """The split to which a file or folder belongs by its name: train, validation, test, or None."""
    found = _SPLIT.match(name)
    return _SPLITS[found.lastindex - 1] if found and found.lastindex else None


def find_splits(path: str, keep_all: bool = False) -> Splits:
    """Assigns the files at `path` (a file, a folder or a glob) to splits; with `keep_all`, all are training text.

    - The splits of a save_to_disk dataset are recognised by their names.
    - Hidden files, empty files and files with unknown suffixes are skipped.
    - Where record files (.jsonl, .parquet ...) lie beside source code and markup, only the records are used, unless the
      folder is mainly a source tree: then only the source files are.
    - Text and record files belong to the split that their name or a folder above them names. All others are training
      text, or are skipped where some files are named train.
    - Source code and markup are assigned by folder names only, and only where a folder is named train: test_x.py is a
      program, not a test split.

    Raises UserError where no training text is left.
    """
    root = Path(path).expanduser()
    if root.is_dir() and (saved := saved_dataset(root)):
        return _saved_splits(root, saved, keep_all)
    if root.is_file():
        if format_of(root) is None:
            raise UserError(f"{path} has an unknown format: expected one of {EXPECTED_FORMATS}, {PLAIN_OR_COMPRESSED}")
        return Splits([root])
    skipped: Counter[str] = Counter()
    base, candidates = _candidates(root)
    files = _usable(base, candidates, skipped)
    files = _of_one_kind(files, skipped)
    if not files:
        found = f" ({_listed(skipped)})" if skipped else ""
        raise UserError(
            f"found no text at {path}{found}: expected a file, a folder or a glob of "
            f"{EXPECTED_FORMATS}, {PLAIN_OR_COMPRESSED}"
        )
    if keep_all or len(files) == 1:
        return Splits(files, [], skipped)
    folders = {file: [part for part in file.relative_to(base).parts[:-1] if split_of(part)] for file in files}
    has_train_folder = any(split_of(part) == "train" for parts in folders.values() for part in parts)
    named = {}
    for file, parts in folders.items():
        above = split_of(parts[-1]) if parts else None
        if format_of(file) in SOURCE_FILES:
            named[file] = above if has_train_folder else None
        else:
            named[file] = split_of(file.name) or above
    return _by_split(named, skipped)


def _saved_splits(root: Path, saved: dict[str, list[Path]], keep_all: bool) -> Splits:
    named = {name: None if keep_all or len(saved) == 1 else split_of(name) for name in saved}
    return _by_split({file: named[name] for name, files in saved.items() for file in files}, Counter())


def _by_split(named: dict[Path, str | None], skipped: Counter[str]) -> Splits:
    splits = Splits([], [], skipped)
    only_named = "train" in named.values()
    for file, split in named.items():
        if split == "validation":
            splits.validation.append(file)
        elif split == "test":
            skipped["of a test split"] += 1
        elif split is None and only_named:
            skipped[f"{_suffix(file)} not named train, as others are"] += 1
        else:
            splits.train.append(file)
    if not splits.train:
        first = next(iter(named))
        raise UserError(f"found only validation or test files beside {first}: name the training text's files train*")
    return splits


def _candidates(path: Path) -> tuple[Path, list[Path]]:
    """(folder, paths in it) of a folder or a glob."""
    if path.is_dir():
        return path, sorted(path.rglob("*"))
    fixed = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed), [Path(name) for name in sorted(glob.iglob(str(path), recursive=True))]


def _usable(base: Path, candidates: Iterable[Path], skipped: Counter[str]) -> list[Path]:
    """The files with known suffixes that are neither hidden nor empty; counts the others in `skipped`."""
    files, unknown = [], Counter()
    for file in candidates:
        if not file.is_file():
            continue
        inside = file.relative_to(base).parts if file.is_relative_to(base) else (file.name,)
        if any(part.startswith(".") or part == "__MACOSX" for part in inside):
            skipped["hidden"] += 1
        elif format_of(file) is None:
            unknown[_suffix(file)] += 1
        elif file.stat().st_size == 0:
            skipped["empty"] += 1
        else:
            files.append(file)
    skipped.update(dict(unknown.most_common(MAX_SUFFIXES_LISTED)))
    if others := unknown.most_common()[MAX_SUFFIXES_LISTED:]:
        skipped[f"of {len(others)} other suffixes"] = sum(count for _, count in others)
    return files


def _of_one_kind(files: list[Path], skipped: Counter[str]) -> list[Path]:
    """Removes record files or source files (code and markup) where there are both: the record files where the source
    files, without READMEs, are more in number and in bytes; the source files otherwise."""
    records = [file for file in files if format_of(file) in RECORDS]
    sources = [file for file in files if format_of(file) in SOURCE_FILES]
    if not records or not sources:
        return files
    tree = [file for file in sources if not file.name.lower().startswith("readme")]
    is_tree = len(tree) > len(records) and _size(tree) > _size(records)
    dropped, what = (
        (records, "record files beside source code") if is_tree else (sources, "source files beside record files")
    )
    kinds = Counter(map(_suffix, dropped)).most_common(MAX_SUFFIXES_LISTED)
    skipped[f"{what} ({', '.join(f'{count:,} {suffix}' for suffix, count in kinds)})"] = len(dropped)
    return [file for file in files if file not in set(dropped)]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _suffix(file: Path) -> str:
    suffixes = file.suffixes
    if suffixes and suffixes[-1].lower() in COMPRESSIONS:
        return "".join(suffixes[-2:]).lower()
    return suffixes[-1].lower() if suffixes else "without a suffix"


def _summary(files: list[Path]) -> str:
    counts, sizes = Counter(map(_suffix, files)), Counter()
    for file in files:
        sizes[_suffix(file)] += file.stat().st_size
    listed = counts.most_common(MAX_SUFFIXES_LISTED)
    kinds = ", ".join(f"{count:,} {suffix} {_bytes(sizes[suffix])}" for suffix, count in listed)
    if len(counts) > MAX_SUFFIXES_LISTED:
        kinds += f" and {len(counts) - MAX_SUFFIXES_LISTED} other suffixes"
    total = f"{len(files):,} file{'s' * (len(files) != 1)}, {_bytes(sizes.total())}"
    return f"{total} ({kinds})" if len(counts) > 1 else f"{total} ({next(iter(counts))})"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
