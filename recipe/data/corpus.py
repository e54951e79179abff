"""The corpus as a stream of documents: local or remote files, folders, globs and archives, hub datasets, the built-in
corpus; as text, or as token ids where the dataset is pre-tokenised or prepared."""

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipe.data.columnar import COLUMNAR, IDS, columns_of, read_ids
from recipe.data.docstrings import docstrings, versions
from recipe.data.filesystems import is_remote, reason_of
from recipe.data.meter import Meter
from recipe.data.prepared_tokens import PREPARED
from recipe.data.remote import fetch, is_archive, slug
from recipe.data.splits import Splits, find_splits
from recipe.data.surrogates import without_surrogates
from recipe.data.tables import DELIMITERS
from recipe.data.text_files import RECORDS, SOURCE_FILES, field_of, format_of, read_documents, text_of
from recipe.system.errors import SourceBroken, UserError
from recipe.system.hub import require_hub
from recipe.system.progress import Progress

DOCSTRINGS = "docstrings"
HUB = "hub"  # takes the place of a file format for hub datasets
# Versions of the readers of these formats. A version is part of the description, so that tokens prepared with an older
# reader aren't reused. 2 keeps the indentation of .txt, refuses rows of .csv with too many fields and reads .tsv
# without quoting.
READER_VERSIONS = {".txt": 2, **dict.fromkeys(DELIMITERS, 2)}


@dataclass(frozen=True)
class Source:
    """One split of a corpus.

    Each call of `documents()` starts a new stream of it, always in the same order: of texts, or of rows of token ids if
    `tokenised`, which are pieces of one stream if `join_rows`. `description` is JSON that changes when the text does.
    `meter` counts what the stream begun last has read.
    """

    name: str
    description: dict
    documents: Callable[[], Iterator[Any]]  # texts, or arrays of ids if `tokenised`
    tokenised: bool = False
    join_rows: bool = False
    meter: Meter = field(default_factory=Meter, compare=False)

    def texts(self) -> Iterator[str]:
        """The documents as text. Raises UserError where there are only token ids."""
        if self.tokenised:
            raise UserError(
                "found token ids as DATASET, expected text to train a tokenizer on: pass the tokenizer that "
                "they were made with as --tokenizer_name"
            )
        return self.documents()


@dataclass(frozen=True)
class Corpus:
    """The training split and, if the source has one, its validation split; or `prepared`, a folder of prepared tokens.
    `about` holds lines to print: which files these are, and a warning for each setting without effect."""

    name: str
    train: Source
    validation: Source | None = None
    prepared: Path | None = None
    about: tuple[str, ...] = ()


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
    text_encoding: str | None = None,
    csv_delimiter: str | None = None,
    csv_quoting: str = "auto",
    cache_dir: str | None = None,
    token: str | None = None,
    downloads: Path = Path("data/downloads"),
) -> Corpus:
    """Finds the corpus that `dataset` ("docstrings", a path, a glob, a URL or a hub id) or `train_file` names.

    Remote files are fetched to `downloads`, archives are unpacked there; no text is read yet. For the splits of a
    folder see `recipe.data.splits.find_splits`. Parquet and Arrow files with a column `input_ids` are read as token
    ids; with `join_rows`, their rows are pieces of one stream. Raises UserError where nothing usable is found.
    """
    for flag, value in (("dataset_name", dataset), ("train_file", train_file), ("validation_file", validation_file)):
        if value is not None and not value.strip():
            raise UserError(f"found an empty --{flag}: name text, or leave the flag out")
    named = train_file or dataset
    if named is None or (dataset and train_file):
        raise UserError("found both or neither of --dataset_name and --train_file: pass exactly one of them")
    options = {"text_column": text_column, "line_by_line": line_by_line}
    # The description identifies a corpus and contains these only where they differ from their defaults.
    optional = (
        ("keep_linebreaks", keep_linebreaks, True),
        ("text_encoding", text_encoding, None),
        ("csv_delimiter", csv_delimiter, None),
        ("csv_quoting", csv_quoting, "auto"),
    )
    options |= {name: value for name, value, default in optional if value != default}
    validation, splits, on_hub = None, Splits([]), False
    if dataset == DOCSTRINGS:
        corpus_name, train = DOCSTRINGS, _docstring_source()
    elif train_file or _looks_local(named):
        path, corpus_name, origin = _localise(named, downloads, token)
        if (Path(path) / PREPARED).exists():
            if validation_file:
                raise UserError(
                    f"{path} holds prepared tokens with their validation split: leave --validation_file out"
                )
            origin = origin or {"prepared": path}
            return Corpus(corpus_name, Source("train", origin, lambda: iter(()), tokenised=True), None, Path(path))
        splits = find_splits(path, keep_all=bool(train_file))
        train = _file_source("train", splits.train, options, origin, join_rows)
        if splits.validation and not validation_file:
            validation = _file_source("validation", splits.validation, options, origin, join_rows)
    else:
        on_hub = True
        corpus_name = slug("-".join(filter(None, (dataset, config))))
        train, validation = _hub_sources(named, config, text_column, cache_dir, token)
    if validation_file:
        path, _, origin = _localise(validation_file, downloads, token)
        own = find_splits(path, keep_all=True)
        validation = _file_source("validation", own.train, options, origin, join_rows)
        skipped = splits.skipped + own.skipped
        if splits.validation:
            skipped["of a validation split, replaced by --validation_file"] = len(splits.validation)
        splits = Splits(splits.train, own.train, skipped)
    if join_rows and not train.tokenised:
        raise UserError(f"found --join_rows, but {corpus_name} is text, not rows of token ids: leave it out")
    formats = {format_of(path) for path in splits.train + splits.validation} | ({HUB} if on_hub else set())
    return Corpus(corpus_name, train, validation, about=(*splits.lines(), *_ineffective_settings(options, formats)))


def joined(corpora: Iterable[Corpus]) -> Corpus:
    """The training texts of several corpora as one, to train a tokenizer on: the next document is always of the corpus
    of which the fewest characters were read. One corpus stays as it is; of several that are prepared, the result has
    the folder of the first."""
    corpora = list(corpora)
    if len(corpora) == 1:
        return corpora[0]
    meter = Meter(unit="characters")

    def documents() -> Iterator[str]:
        meter.done = 0
        streams = [iter(corpus.train.texts()) for corpus in corpora]
        read = dict.fromkeys(range(len(streams)), 0)
        while read:
            least = min(read, key=read.__getitem__)
            document = next(streams[least], None)
            if document is None:
                del read[least]
                continue
            read[least] += len(document)
            meter.add(len(document))
            yield document

    name = "+".join(corpus.name for corpus in corpora)
    prepared = corpora[0].prepared if all(corpus.prepared for corpus in corpora) else None
    description = {"joined": [corpus.train.description for corpus in corpora]}
    return Corpus(name, Source("train", description, documents, meter=meter), prepared=prepared)


def _ineffective_settings(options: dict, formats: set[str | None]) -> Iterator[str]:
    """A warning for each setting that applies to none of the `formats`."""
    tables, text = set(DELIMITERS), {".txt", *SOURCE_FILES}
    for name, given, applicable, what in (
        ("text_column", options["text_column"] != "text", {*RECORDS, HUB}, "file with columns"),
        ("line_by_line", options["line_by_line"], text, "file of plain text"),
        ("keep_linebreaks", "keep_linebreaks" in options, {".txt"}, ".txt file"),
        ("text_encoding", "text_encoding" in options, {*text, *tables, ".json", ".jsonl"}, "file of text"),
        ("csv_delimiter", "csv_delimiter" in options, tables, ".csv or .tsv file"),
        ("csv_quoting", "csv_quoting" in options, tables, ".csv or .tsv file"),
    ):
        if given and not formats & applicable:
            yield f"warning: --{name} has no effect: there is no {what}"


def _localise(path: str, downloads: Path, token: str | None) -> tuple[str, str, dict | None]:
    """(local path, name, description or None) of a path or URL, fetched or unpacked where it needs to be."""
    if is_remote(path) or is_archive(path):
        fetched = fetch(path, downloads, token)
        return str(fetched.path), fetched.name, fetched.description
    local = Path(path).expanduser()
    return str(local), slug(local.parent.name if glob.has_magic(path) else local.name), None


def _looks_local(dataset: str) -> bool:
    return (
        is_remote(dataset)
        or is_archive(dataset)
        or Path(dataset).exists()
        or glob.has_magic(dataset)
        or dataset.startswith((".", "/", "~"))
        or dataset.count("/") > 1
        or (format_of(Path(dataset)) is not None and not (format_of(Path(dataset)) in SOURCE_FILES and "/" in dataset))
    )


def _docstring_source() -> Source:
    meter = Meter(unit="characters")

    def documents() -> Iterator[str]:
        with Progress("reading the docstrings of installed packages"):
            texts = docstrings()
        meter.total, meter.done = sum(map(len, texts)), 0
        for text in texts:
            meter.add(len(text))
            yield text

    return Source("train", {"docstrings": versions()}, documents, meter=meter)


# ---- files


def _file_source(
    name: str, paths: list[Path], options: dict, origin: dict | None = None, join_rows: bool = False
) -> Source:
    """One split made of files; `origin` describes what they were fetched or unpacked from, if they were."""
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
    reported: list[bool] = []  # shared by all streams
    meter = Meter(sum(size for _, size, _ in files))

    def metered(read: Callable) -> Iterator[tuple[Path, Any]]:
        """(file, document) of each file that `read` reads."""
        before = 0
        for path, (_, size, _) in zip(paths, files, strict=True):
            meter.done = before
            yield from ((path, document) for document in read(path))
            before += size
        meter.done = before

    def documents() -> Iterator[str]:
        for path in paths[1:]:  # an unusable file is found now, not hours later
            next(read_documents(path, **options), None)
        yield from _cleaned(metered(partial(read_documents, meter=meter, **options)), reported)

    def rows() -> Iterator[np.ndarray]:
        for path in paths:
            if format_of(path) not in COLUMNAR or IDS not in columns_of(path):
                raise UserError(
                    f"{path} has no column {IDS!r} as {paths[0]} has: put text and token ids in different folders"
                )
        yield from (ids for _, ids in metered(partial(read_ids, meter=meter)))

    if format_of(paths[0]) in COLUMNAR and IDS in columns_of(paths[0]):
        return Source(name, {**described, "column": IDS, "join_rows": join_rows}, rows, True, join_rows, meter)
    formats = {format_of(path) for path in paths}
    versions_read = {kind: version for kind, version in sorted(READER_VERSIONS.items()) if kind in formats}
    description = {**described, **options, **({"reading": versions_read} if versions_read else {})}
    return Source(name, description, documents, meter=meter)


def _cleaned(texts: Iterable[tuple[object, str]], reported: list[bool]) -> Iterator[str]:
    """The texts of (where, text) pairs without the empty ones, lone surrogates replaced (recipe.data.surrogates).

    Prints both counts at the end, unless they were `reported` before.
    """
    empty = replaced = 0
    first: object = None
    for where, text in texts:
        text, count = without_surrogates(text)
        if count:
            replaced += count
            first = first or where
        if text:
            yield text
        else:
            empty += 1
    if replaced and not reported:
        print(
            f"warning: replaced {replaced:,} lone surrogates (halves of a character) by U+FFFD, the first in {first}",
            flush=True,
        )
    if empty and not reported:
        print(f"skipped {empty:,} records without text (null or blank)", flush=True)
    reported.append(True)


# ---- the hub


def _hub_sources(dataset: str, config: str | None, column: str, cache_dir: str | None, token: str | None):
    require_hub(f"dataset {dataset}", "a local file, folder or glob as DATASET, or DATASET=docstrings")
    import datasets  # slow to import, and only needed for hub datasets
    import huggingface_hub

    try:
        # The commit is fixed, so that a preparation that is continued later reads the same text.
        with Progress(f"opening the hub dataset {dataset}"):
            commit = huggingface_hub.HfApi(token=token).dataset_info(dataset).sha
            splits = datasets.load_dataset(
                dataset, config, revision=commit, streaming=True, cache_dir=cache_dir, token=token
            )
    except Exception as error:  # the hub's errors share no base class
        raise UserError(
            f"cannot open the hub dataset {dataset}: {reason_of(error)}: check the name, --dataset_config_name and "
            "--token"
        ) from error
    if "train" not in splits:
        raise UserError(f"the hub dataset {dataset} has the splits {', '.join(splits)}, expected a train split")

    def source(split: str) -> Source:
        reported: list[bool] = []
        meter = Meter(_number_of_rows(splits[split]), "rows")

        def rows() -> Iterator[tuple[str, str]]:
            meter.done = 0
            try:
                for row in splits[split]:
                    meter.add(1)
                    yield dataset, text_of(dataset, column, field_of(dataset, column, row))
            except UserError:
                raise
            except Exception as error:
                raise SourceBroken(
                    f"reading the hub dataset {dataset} was interrupted: {reason_of(error)}: run again to continue it"
                ) from error

        description = {"hub": dataset, "commit": commit, "config": config, "split": split, "text_column": column}
        return Source(split, description, lambda: _cleaned(rows(), reported), meter=meter)

    return source("train"), source("validation") if "validation" in splits else None


def _number_of_rows(split) -> int | None:
    """The rows of a split of a hub dataset, None where its card doesn't say."""
    known = (split.info.splits or {}).get(str(split.split))
    return known.num_examples or None if known else None
