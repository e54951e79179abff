"""Preparation: a corpus is tokenised once into flat arrays on disk, from which blocks of any length are cut later.

A folder of prepared tokens holds train.npy and validation.npy (uint16 or uint32: the tokens of all documents, each
document followed by the end-of-sequence token), unigram.npy (the count of each id in train.npy) and prepared.json (what
they were made from). Pre-tokenised datasets give the same arrays, without the special tokens that
`recipe.data.columnar` strips. The folder's name ends in a hash of tokenizer, text and split, so that other text or
another tokenizer gives another folder. recipe.data.prepared_tokens opens them.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerFast

from recipe.data.columnar import TokenisedRows
from recipe.data.corpus import Corpus, Source
from recipe.data.order import mix
from recipe.data.prepared_tokens import (
    PREPARED,
    SPLITS,
    PreparedTokens,
    fingerprint_of,
    load_prepared,
    remedy,
    write_checksums,
)
from recipe.data.token_arrays import summarise, token_dtype
from recipe.data.tokenizer import block_ends, fingerprint, pieces, plain_backend, words_end_at_spaces
from recipe.system.errors import SourceBroken, UserError
from recipe.system.files import (
    DamagedFile,
    add_checksum,
    atomic_output,
    flush,
    publish_folder,
    read_object,
    remove,
    verify_checksum,
    write_json,
)
from recipe.system.locks import exclusive_lock
from recipe.system.progress import BYTES, Progress
from recipe.system.secrets import redact_all

FORMAT = 1  # to be increased when the same inputs give other files
BATCH_CHARACTERS = 1_000_000  # encoded at a time; encoding takes about a hundred bytes per character
# Longer documents are encoded in pieces of this size, where that changes no token: threads share them, memory is
# bounded.
PIECE_CHARACTERS = 1 << 16
BATCH_DOCUMENTS = 20_000
SECONDS_BETWEEN_PROGRESS = 5.0
CHUNK_BYTES = 1 << 22

Document = TypeVar("Document", str, np.ndarray)


def prepare_tokens(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    parent: Path,
    *,
    validation_percentage: float = 5.0,
    seed: int = 42,
    rebuild: bool = False,
    before_tokenising: Callable[[], None] = lambda: None,
) -> PreparedTokens:
    """Opens the prepared tokens of `corpus` in the folder `parent`, and makes them first where there are none.

    Where the corpus has no validation text, each document goes to the validation split with a probability of
    `validation_percentage` / 100, decided by `seed` and the document's number. One process works while others that
    need the same tokens wait; after a kill, the next call continues from the progress saved last. Memory is bounded by
    BATCH_CHARACTERS (by the longest document, if the tokenizer's words can contain spaces). `before_tokenising` is
    called only where tokens have to be made, and may raise. Raises UserError for unusable text, and then leaves nothing
    behind.
    """
    origin = {
        "format": FORMAT,
        "tokenizer": fingerprint(tokenizer),
        "train": corpus.train.description,
        "validation": (
            corpus.validation.description
            if corpus.validation
            else {"percentage": validation_percentage, "seed": seed, "by": "document"}
        ),
    }
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    folder = parent / f"{corpus.name}-{digest}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(parent / f"{folder.name}.lock", f"prepares {folder}"):
            # Once per launch: the other ranks use what the first one made.
            if rebuild and folder.exists() and os.environ.get("LOCAL_RANK", "0") == "0":
                shutil.rmtree(folder)
            if not (folder / PREPARED).exists():
                if folder.exists():
                    raise UserError(f"{folder} has no {PREPARED}: {remedy(folder)}")
                before_tokenising()
                held_out = _HeldOut(seed, 0.0 if corpus.validation else validation_percentage / 100)
                _Preparation(corpus, tokenizer, folder, origin, held_out).run()
    except OSError as error:
        what = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(
            f"cannot write prepared tokens to {folder}: {what}: free some space or pass --prepared_dir"
        ) from error
    return load_prepared(folder)


class _HeldOut:
    """Decides which documents of the training text go to the validation split: each with probability `share`."""

    def __init__(self, seed: int, share: float):
        self.seed, self.threshold = np.uint64(seed), share * 2.0**64

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """[documents] bool for the documents with these numbers; a pure function of seed and number."""
        with np.errstate(over="ignore"):
            return mix(mix(self.seed + np.uint64(1)) + numbers.astype(np.uint64)) < self.threshold


class _Preparation:
    """One pass over a corpus that fills `folder`.partial, which is renamed to `folder` when it is complete."""

    def __init__(self, corpus, tokenizer, folder: Path, origin: dict, held_out: _HeldOut):
        self.corpus, self.folder, self.origin, self.held_out = corpus, folder, origin, held_out
        self.partial = folder.with_name(folder.name + ".partial")
        self.progress_file = self.partial / "progress.json"
        self.backend = plain_backend(tokenizer)
        self.cut_at_spaces = words_end_at_spaces(self.backend)
        self.separator = block_ends(tokenizer)[1]
        self.vocabulary = len(tokenizer)
        self.dtype = token_dtype(self.vocabulary)
        self.tokenizer_name = tokenizer.name_or_path
        self.rows = TokenisedRows(corpus.name, tokenizer, corpus.train.join_rows)

    def run(self) -> None:
        done = self._saved_progress()
        if done is None:
            remove(self.partial)
            self.partial.mkdir()
            zeros = dict.fromkeys(SPLITS, 0)
            done = {"source": 0, "documents": {**zeros}, "tokens": {**zeros}, "crc32": {**zeros}, "read": 0}
        else:
            print(f"continuing the preparation after {sum(done['tokens'].values()):,} tokens", flush=True)
        try:
            self._tokenise(done)
            self._require_documents(done)
            self._publish(done)
        except SourceBroken:
            raise
        except UserError:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise

    def _saved_progress(self) -> dict | None:
        """The progress saved last; None where there is none, or where it or the tokens it covers are damaged."""
        if not self.progress_file.is_file():
            return None
        try:
            done = verify_checksum(read_object(self.progress_file))
            for split in SPLITS:
                if self._crc32(split, done["tokens"][split]) != done["crc32"][split]:
                    raise DamagedFile(f"does not match {split}.npy, which is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"warning: {self.progress_file} {error}: the preparation starts over", flush=True)
            return None
        return done

    def _crc32(self, split: str, tokens: int) -> int:
        """CRC-32 of the first `tokens` tokens in the split's unfinished file."""
        left, crc = tokens * np.dtype(self.dtype).itemsize, 0
        with (self.partial / f"{split}.npy").open("rb") as stream:
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            with Progress(f"checking the saved tokens of {self.corpus.name}", left, BYTES) as progress:
                while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                    crc, left = zlib.crc32(chunk, crc), left - len(chunk)
                    progress.update(len(chunk))
        if left:
            raise DamagedFile(f"covers {tokens} tokens, {split}.npy is shorter")
        return crc

    def _tokenise(self, done: dict) -> None:
        sources = [source for source in (self.corpus.train, self.corpus.validation) if source]
        files = {split: self._open(split, done["tokens"][split]) for split in SPLITS}
        meters = [source.meter for source in sources]
        total = None if None in (totals := [meter.total for meter in meters]) else sum(totals)
        finished = 0  # of the sources before this one
        for meter in meters:
            meter.done = 0  # not what an earlier stream has read

        def read() -> float:
            return finished + meters[number].done

        saved_at = time.monotonic()
        number = done["source"]
        progress = Progress(f"tokenising {self.corpus.name}", total, meters[0].unit, read)
        with files["train"], files["validation"], progress:
            for number in range(done["source"], len(sources)):
                source = sources[number]
                finished = sum(meter.total or 0 for meter in meters[:number])
                for texts in _batches(self._documents(source), done["read"], skipped=progress.restart):
                    numbers = np.arange(done["read"], done["read"] + len(texts))
                    held_out = self.held_out(numbers) if source is self.corpus.train else np.ones(len(texts), bool)
                    for ids, is_validation in zip(self._encode(texts), held_out, strict=True):
                        split = SPLITS[int(is_validation)]
                        files[split].write(ids.data)
                        done["crc32"][split] = zlib.crc32(ids.data, done["crc32"][split])
                        done["documents"][split] += 1
                        done["tokens"][split] += len(ids)
                    done["read"] += len(texts)
                    if time.monotonic() - saved_at > SECONDS_BETWEEN_PROGRESS:
                        self._save_progress(files, done)
                        saved_at = time.monotonic()
                done["source"], done["read"] = number + 1, 0

    def _open(self, split: str, tokens: int):
        """The split's file, truncated to its header and the `tokens` tokens that the saved progress covers."""
        path = self.partial / f"{split}.npy"
        path.touch()
        stream = path.open("r+b")
        self._write_header(stream, tokens)
        stream.truncate(stream.tell() + tokens * np.dtype(self.dtype).itemsize)
        stream.seek(0, os.SEEK_END)
        return stream

    def _write_header(self, stream, tokens: int) -> None:
        # NumPy pads the header, so that its length doesn't change as the first axis grows.
        header = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": (tokens,)}
        np.lib.format.write_array_header_1_0(stream, header)

    def _documents(self, source: Source) -> Iterable[Any]:
        return self.rows.documents(source.documents()) if source.tokenised else source.documents()

    def _encode(self, texts: list) -> Iterator[np.ndarray]:
        """The ids of each text, or of each row of ids, followed by the separator."""
        if isinstance(texts[0], np.ndarray):
            yield from (np.append(ids, self.separator).astype(self.dtype) for ids in texts)
            return
        cut = [list(pieces(text, PIECE_CHARACTERS)) if self.cut_at_spaces else [text] for text in texts]
        flat = [piece for parts in cut for piece in parts]
        at_once = len(texts) + BATCH_CHARACTERS // PIECE_CHARACTERS  # a complete batch, or a part of one long document
        encodings = (
            encoding
            for start in range(0, len(flat), at_once)
            for encoding in self.backend.encode_batch_fast(flat[start : start + at_once], add_special_tokens=False)
        )
        for parts in cut:
            ids = chain.from_iterable(encoding.ids for encoding in islice(encodings, len(parts)))
            yield np.array([*ids, self.separator], dtype=self.dtype)

    def _save_progress(self, files: dict, done: dict) -> None:
        for stream in files.values():
            stream.flush()
            os.fsync(stream.fileno())
        write_json(self.progress_file, add_checksum(done))

    def _require_documents(self, done: dict) -> None:
        documents = done["documents"]
        if sum(documents.values()) == 0:
            raise UserError(f"found no text in {self.corpus.name}: expected at least one document that isn't blank")
        if documents["train"] == 0:
            raise UserError(
                f"all {documents['validation']} documents of {self.corpus.name} went to the validation split: "
                "lower --validation_split_percentage or pass --validation_file"
            )
        if documents["validation"] == 0 and self.corpus.validation is not None:
            raise UserError(f"found no text in the validation source of {self.corpus.name}")
        if documents["validation"] == 0:
            raise UserError(
                f"none of the {documents['train']} documents of {self.corpus.name} went to the validation split: raise "
                "--validation_split_percentage, pass --validation_file, or --line_by_line to make each line a document"
            )

    def _publish(self, done: dict) -> None:
        """Completes the files and renames the folder."""
        splits = {}
        for split in SPLITS:
            path = self.partial / f"{split}.npy"
            with path.open("r+b") as stream:
                self._write_header(stream, done["tokens"][split])
            flush(path)
            digest, counts = summarise(path, self.vocabulary, write=True)
            if split == "train":
                with atomic_output(self.partial / "unigram.npy") as partial, partial.open("wb") as stream:
                    np.save(stream, counts)
            splits[split] = {
                "tokens": done["tokens"][split],
                "documents": done["documents"][split],
                "sha256": digest,
            }
        described = {
            "fingerprint": fingerprint_of(splits),
            "corpus": self.corpus.name,
            "tokenizer_name": self.tokenizer_name,
            "vocabulary": self.vocabulary,
            "dtype": np.dtype(self.dtype).name,
            "splits": splits,
            "made_from": self.origin,
        }
        if self.rows.stripped:
            described["rows"] = dict(self.rows.stripped)
            print(self.rows, flush=True)
        self.progress_file.unlink(missing_ok=True)
        write_json(self.partial / PREPARED, redact_all(described))
        write_checksums(self.partial)
        publish_folder(self.partial, self.folder)


def _batches(documents: Iterable[str], skip: int, skipped: Callable[[], None]) -> Iterator[list[str]]:
    """Batches of at most BATCH_CHARACTERS (more only for a single longer document), after the first `skip` documents;
    `skipped` is called after those."""
    batch, size = [], 0
    documents = iter(documents)
    next(islice(documents, skip, skip), None)
    skipped()
    for text in documents:
        if batch and (size + len(text) > BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
