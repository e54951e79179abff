"""Folders of prepared tokens: opened, and verified before use; recipe.data.preparation writes them.

Damaged data is never used: train.crc32.npy and validation.crc32.npy hold the checksums of the arrays' pages, each
verified when the page is first read (recipe.data.token_arrays); checksums.json holds the sha256 of all other files,
verified at each start. A folder of an earlier version has neither: it is read completely once, and both are written.
"""

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from recipe.data.token_arrays import CheckedTokens, checksums_of, open_tokens, summarise
from recipe.data.tokenizer import fingerprint
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object, write_atomically
from recipe.system.locks import exclusive_lock
from recipe.system.manifest import damage, manifest_of

PREPARED = "prepared.json"  # marks a folder of prepared tokens; written last but for the manifest of an upload
TOKENIZER_FOLDER = "tokenizer"  # only in prepared tokens that were uploaded
CHECKSUMS = "checksums.json"  # sizes and sha256 of the small files
MAX_HASHED_AT_START = 64 << 20  # bytes of a file; reached by the page checksums of 34 billion tokens of two bytes
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PreparedTokens:
    """An opened folder of prepared tokens. `splits` maps each split to its numbers of tokens and documents and the
    sha256 of its tokens; `fingerprint` identifies the content: the sha256 of `splits`."""

    folder: Path
    fingerprint: str
    splits: dict[str, dict]

    def tokens(self, split: str) -> np.ndarray:
        """The flat array of `split`, memory-mapped and not verified."""
        return open_tokens(self.folder / f"{split}.npy")

    def checked(self, split: str) -> CheckedTokens | np.ndarray:
        """The flat array of `split`, each page verified when it is first read; the plain array where there are no page
        checksums, because `load_prepared` verified all of it and can't write them to the folder."""
        file = self.folder / f"{split}.npy"
        return CheckedTokens(file, remedy(self.folder)) if checksums_of(file).exists() else open_tokens(file)

    def unigram_counts(self) -> np.ndarray:
        """[vocabulary] int64: occurrences of each id in the training tokens."""
        return np.load(self.folder / "unigram.npy")


def load_prepared(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> PreparedTokens:
    """Opens a folder of prepared tokens and verifies it, except for the arrays' pages, which are verified when read.

    Raises UserError where it isn't such a folder, is damaged, or was made with another tokenizer than `tokenizer`.
    """
    try:
        described = read_object(folder / PREPARED)
        prepared = _parse(folder, described)
        made_with, vocabulary = described["made_from"]["tokenizer"], described["vocabulary"]
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {PREPARED}: {remedy(folder)}") from error
    except DamagedFile as error:
        raise UserError(f"{folder / PREPARED} {error}: {remedy(folder)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / PREPARED} does not have the expected entries: {remedy(folder)}") from error
    _verify(prepared, vocabulary)
    if tokenizer and (made_with != fingerprint(tokenizer) or vocabulary != len(tokenizer)):
        raise UserError(
            f"the tokens of {folder} were made with the tokenizer {described.get('tokenizer_name')}, "
            f"{tokenizer.name_or_path} is another one: pass the one that they were made with"
        )
    return prepared


def _parse(folder: Path, described: dict) -> PreparedTokens:
    """The content of prepared.json. Raises DamagedFile where its numbers don't match its fingerprint."""
    splits = {split: described["splits"][split] for split in SPLITS}
    if described["fingerprint"] != fingerprint_of(described["splits"]):
        raise DamagedFile("doesn't match its fingerprint")
    for about in splits.values():
        if not isinstance(about["tokens"], int) or not isinstance(about["documents"], int):
            raise TypeError("expected counts")
    if not isinstance(described["vocabulary"], int):
        raise TypeError("expected a number of tokens")
    return PreparedTokens(folder, described["fingerprint"], described["splits"])


def fingerprint_of(splits: dict) -> str:
    """The sha256 of `splits`, which identifies the tokens."""
    return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()


def remedy(folder: Path) -> str:
    """What to do about a damaged folder."""
    return f"delete the folder {folder} and run again, which makes it again (or fetch it again, if it was fetched)"


def _verify(prepared: PreparedTokens, vocabulary: int) -> None:
    """Raises UserError where a file of the folder is damaged; the arrays' pages are verified when they are read.

    A folder without checksums is read completely, and they are written if the folder is writable.
    """
    folder = prepared.folder
    for split in SPLITS:
        about = prepared.splits[split]
        try:
            found = len(open_tokens(folder / f"{split}.npy"))
            if found != about["tokens"]:
                raise DamagedFile(f"has {found} tokens, expected {about['tokens']}")
        except DamagedFile as error:
            raise UserError(f"{folder / split}.npy {error}: {remedy(folder)}") from error
    if not os.path.lexists(folder / CHECKSUMS):
        _verify_arrays(prepared, vocabulary)
    elif reason := damage(folder, CHECKSUMS):
        raise UserError(f"{folder} is damaged: {reason}: {remedy(folder)}")
    try:
        counts = prepared.unigram_counts()
        if counts.shape != (vocabulary,) or counts.dtype != np.int64:
            raise ValueError(f"expected {vocabulary} counts")
    except Exception as error:  # as in recipe.data.token_arrays.open_tokens
        raise UserError(f"{folder / 'unigram.npy'} is not a complete array: {remedy(folder)}") from error


def _verify_arrays(prepared: PreparedTokens, vocabulary: int) -> None:
    """Compares the arrays of a folder without checksums.json with their sha256, and writes the missing checksums.

    Ranks take turns; all but the first find the checksums written. Raises UserError where something is damaged.
    """
    folder = prepared.folder
    writable = os.access(folder, os.W_OK) and os.access(folder.parent, os.W_OK)
    with exclusive_lock(folder.parent / f"{folder.name}.lock", f"verifies {folder}") if writable else nullcontext():
        if (folder / CHECKSUMS).exists():
            return
        when = "once" if writable else "at each start, since the folder isn't writable"
        print(f"verifying  {folder}, which has no {CHECKSUMS}: all of it is read, {when}", flush=True)
        for split in SPLITS:
            file = folder / f"{split}.npy"
            try:
                digest, counts = summarise(file, vocabulary, write=writable)
                if digest != prepared.splits[split]["sha256"]:
                    raise DamagedFile(f"has the sha256 {digest}, expected {prepared.splits[split]['sha256']}")
                if split == "train" and not _same_counts(prepared, counts):
                    file = folder / "unigram.npy"
                    raise DamagedFile("does not hold the counts of train.npy")
            except DamagedFile as error:
                for written in SPLITS:
                    checksums_of(folder / f"{written}.npy").unlink(missing_ok=True)
                raise UserError(f"{file} {error}: {remedy(folder)}") from error
        if writable:
            write_checksums(folder)


def _same_counts(prepared: PreparedTokens, counts: np.ndarray) -> bool:
    try:
        return np.array_equal(prepared.unigram_counts(), counts)
    except Exception:  # as in recipe.data.token_arrays.open_tokens
        return False


def write_checksums(folder: Path) -> None:
    """Writes checksums.json, which covers all files that are small enough to be hashed at each start."""
    names = (PREPARED, "unigram.npy", *(checksums_of(folder / f"{split}.npy").name for split in SPLITS))
    files = {name: folder / name for name in names if (folder / name).stat().st_size <= MAX_HASHED_AT_START}
    write_atomically(folder / CHECKSUMS, manifest_of(files).encode())
