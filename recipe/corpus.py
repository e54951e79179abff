"""Where text comes from: files, folders, globs, archives, here or elsewhere, hub datasets or the built-in corpus, as a
stream of documents; or where token ids come from that somebody made of it already."""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipe.docstrings import docstrings, versions
from recipe.errors import SourceBroken, UserError
from recipe.hub import require_hub
from recipe.remote import PREPARED, bring, is_archive, is_remote, slug
from recipe.rows import COLUMNAR, IDS, columns_of, read_ids, saved_dataset
from recipe.text_files import FORMATS, format_of, read_documents, text_of, unknown_column

DOCSTRINGS = "docstrings"


@dataclass(frozen=True)
class Source:
    """A split of a corpus. `documents()` streams it afresh each time, always in the same order: texts, or rows of token
    ids where it is `tokenised`, pieces of one stream if `join_rows`; `description` is plain JSON that changes when the
    text does."""

    name: str
    description: dict
    documents: Callable[[], Iterator[str] | Iterator[np.ndarray]]
    tokenised: bool = False
    join_rows: bool = False

    def texts(self) -> Iterator[str]:
        """The documents, for whoever needs text. Raises UserError where there are only token ids."""
        if self.tokenised:
            raise UserError(
                "found token ids as DATASET, expected text to train a tokenizer on: pass the tokenizer that "
                "they were made with as --tokenizer_name"
            )
        return self.documents()


@dataclass(frozen=True)
class Corpus:
    """The training text and, where the source has one, its own validation text; or `prepared`, a folder of tokens that
    `prepare_data.py` made."""

    name: str
    train: Source
    validation: Source | None = None
    prepared: Path | None = None


def open_corpus(
    dataset: str | None = None,
    *,
    config: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    text_column: str = "text",
    line_by_line: bool = False,
    join_rows: bool = False,
    keep_linebreaks: bool = True,
    cache_dir: str | None = None,
    token: str | None = None,
    downloads: Path = Path("data/downloads"),
) -> Corpus:
    """Finds the corpus that `dataset` (docstrings, a path, a glob, an address such as s3://... or a hub id) or
    `train_file` names.

    What is elsewhere is fetched to `downloads`, archives are unpacked there; no text is read yet. A folder's files go
    to a split by the beginning of their names, as a saved dataset's splits do: `valid...`, `dev...` and `eval...` are
    validation, `test...` is left alone, the rest is training text; names that begin with `train` make only those the
    training text. Parquet and Arrow files with a column `input_ids` are taken as token ids; `join_rows` says that their
    rows are pieces of one stream. Raises UserError where nothing usable is found.
    """
    if (dataset is None) == (train_file is None):
        raise UserError("found both or neither of --dataset_name and --train_file: pass exactly one of them")
    options = {"text_column": text_column, "line_by_line": line_by_line}
    if not keep_linebreaks:  # said only where it is so: a corpus is known by its description
        options["keep_linebreaks"] = False
    validation = None
    if dataset == DOCSTRINGS:
        corpus_name, train = (DOCSTRINGS, Source("train", {"docstrings": versions()}, lambda: iter(docstrings())))
    elif train_file or _looks_local(dataset):
        path, corpus_name, origin = _bring(train_file or dataset, downloads, token)
        if (Path(path) / PREPARED).exists():
            if validation_file:
                raise UserError(
                    f"{path} holds prepared tokens with their validation split: leave --validation_file out"
                )
            origin = origin or {"prepared": path}
            return Corpus(corpus_name, Source("train", origin, lambda: iter(()), tokenised=True), None, Path(path))
        train_paths, validation_paths = _find_splits(path, keep_all=bool(train_file))
        train = _file_source("train", train_paths, options, origin, join_rows)
        if validation_paths:
            validation = _file_source("validation", validation_paths, options, origin, join_rows)
    else:
        corpus_name = slug("-".join(filter(None, (dataset, config))))
        train, validation = _hub_sources(dataset, config, text_column, cache_dir, token)
    if validation_file:
        path, _, origin = _bring(validation_file, downloads, token)
        validation = _file_source("validation", _find_splits(path, True)[0], options, origin, join_rows)
    if join_rows and not train.tokenised:
        raise UserError(f"found --join_rows, but {corpus_name} is text, not rows of token ids: leave it out")
    return Corpus(corpus_name, train, validation)


def _bring(path: str, downloads: Path, token: str | None) -> tuple[str, str, dict | None]:
    """(local path, name, description or None) of a path or address."""
    if is_remote(path) or is_archive(path):
        brought = bring(path, downloads, token)
        return str(brought.path), brought.name, brought.description
    local = Path(path).expanduser()
    return str(local), slug(local.parent.name if glob.has_magic(path) else local.name), None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _looks_local(dataset: str) -> bool:
    return (
        is_remote(dataset)
        or is_archive(dataset)
        or Path(dataset).exists()
        or glob.has_magic(dataset)
        or dataset.startswith((".", "/", "~"))
        or dataset.count("/") > 1
        or format_of(Path(dataset)) is not None
    )


# ---- files


def _find_files(path: str) -> list[Path]:
    path = str(Path(path).expanduser())
    if Path(path).is_dir():
        found = [file for file in sorted(Path(path).rglob("*")) if file.is_file() and format_of(file)]
    elif Path(path).is_file():
        found = [Path(path)]
        if format_of(found[0]) is None:
            raise UserError(f"{path} has an unknown format: expected one of {' '.join(FORMATS)}, plain or .gz or .zst")
    else:
        found = [Path(name) for name in sorted(glob.iglob(path, recursive=True)) if format_of(Path(name))]
    if not found:
        raise UserError(
            f"found no text at {path}: expected a file, a folder or a glob of {' '.join(FORMATS)} files, "
            "plain or .gz or .zst"
        )
    return found


def _find_splits(path: str, keep_all: bool = False) -> tuple[list[Path], list[Path]]:
    """(training, validation) files at `path`; `keep_all` takes them all for the first."""
    if splits := saved_dataset(Path(path)) if Path(path).is_dir() else None:
        named = {Path(path) / split: files for split, files in splits.items()}
        train, validation = _split_by_name(list(named), keep_all)
        return [f for split in train for f in named[split]], [f for split in validation for f in named[split]]
    return _split_by_name(_find_files(path), keep_all)


def _split_by_name(paths: list[Path], keep_all: bool = False) -> tuple[list[Path], list[Path]]:
    if keep_all or len(paths) == 1:
        return paths, []
    validation = [p for p in paths if p.name.lower().startswith(("valid", "dev", "eval"))]
    rest = [p for p in paths if p not in validation and not p.name.lower().startswith("test")]
    train = [p for p in rest if p.name.lower().startswith("train")] or rest
    if not train:
        raise UserError(f"found only validation or test files beside {paths[0]}: name the training text's files train*")
    return train, validation


def _file_source(
    name: str, paths: list[Path], options: dict, origin: dict | None = None, join_rows: bool = False
) -> Source:
    """`origin` describes what the files were fetched or unpacked from, where they were."""
    files = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if status.st_size == 0:
            raise UserError(f"{path} is empty: expected text; remove the file or fill it")
        files.append([str(path), status.st_size, status.st_mtime_ns])
    described = {"files": files} if origin is None else {"from": origin, "files": [path.name for path in paths]}

    def documents() -> Iterator[str]:
        for path in paths[1:]:  # a file of another kind is found now, not hours later
            next(read_documents(path, **options), None)
        for path in paths:
            yield from read_documents(path, **options)

    def rows() -> Iterator[np.ndarray]:
        for path in paths:
            if path.suffix not in COLUMNAR or IDS not in columns_of(path):
                raise UserError(f"{path} has no column {IDS!r} as {paths[0]} has: keep text and token ids apart")
        for path in paths:
            yield from read_ids(path)

    if paths[0].suffix in COLUMNAR and IDS in columns_of(paths[0]):
        return Source(name, {**described, "column": IDS, "join_rows": join_rows}, rows, True, join_rows)
    return Source(name, {**described, **options}, documents)


# ---- the hub


def _hub_sources(dataset: str, config: str | None, column: str, cache_dir: str | None, token: str | None):
    require_hub(f"dataset {dataset}", "a local file, folder or glob as DATASET, or DATASET=docstrings")
    import datasets  # heavy, and absent where only local text is trained on
    import huggingface_hub

    try:
        # One commit for the whole preparation, so that one that is continued reads the same text.
        commit = huggingface_hub.HfApi(token=token).dataset_info(dataset).sha
        splits = datasets.load_dataset(
            dataset, config, revision=commit, streaming=True, cache_dir=cache_dir, token=token
        )
    except Exception as error:  # the hub's errors share no base class
        raise UserError(
            f"cannot open the hub dataset {dataset}: {_first_line(error)}: check the name, --dataset_config_name and "
            "--token"
        ) from error
    if "train" not in splits:
        raise UserError(f"the hub dataset {dataset} has the splits {', '.join(splits)}, expected a train split")

    def source(split: str) -> Source:
        def documents() -> Iterator[str]:
            try:
                for row in splits[split]:
                    if column not in row:
                        raise UserError(unknown_column(dataset, column, row))
                    yield from text_of(dataset, column, row[column])
            except UserError:
                raise
            except Exception as error:
                raise SourceBroken(
                    f"the hub dataset {dataset} broke off: {_first_line(error)}: run again, it continues"
                ) from error

        description = {"hub": dataset, "commit": commit, "config": config, "split": split, "text_column": column}
        return Source(split, description, documents)

    return source("train"), source("validation") if "validation" in splits else None
