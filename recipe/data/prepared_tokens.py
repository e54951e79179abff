"""Prepared tokens as they lie on disk: opened, and verified before they are used; recipe.data.preparation makes them.

Nothing damaged is used: train.crc32.npy and validation.crc32.npy have the checksums of the arrays' pages, each compared
when it is first read (recipe.data.token_arrays), and checksums.json the sha256 of all other files, compared at each
start. A folder of an earlier version has neither; it is read through once, and gets them.
"""

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from recipe.data.remote import PREPARED
from recipe.data.token_arrays import CheckedTokens, checksums_of, open_tokens, summarise
from recipe.data.tokenizer import fingerprint
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object, write_atomically
from recipe.system.locks import exclusive_lock
from recipe.system.manifest import damage, manifest_of

CHECKSUMS = "checksums.json"  # sizes and sha256 of the small files
CHECKED_AT_START = 64 << 20  # bytes of a file that is hashed at each start: checksums of 34 billion tokens of two bytes
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PreparedTokens:
    """What a folder of prepared tokens holds. `splits` has, by split, the counts of tokens and documents and the
    sha256 of the tokens; `fingerprint` is the folder's hash of what it was made from."""

    folder: Path
    fingerprint: str
    splits: dict[str, dict]

    def tokens(self, split: str) -> np.ndarray:
        """The flat array of `split`, memory-mapped, as it lies on disk."""
        return open_tokens(self.folder / f"{split}.npy")

    def checked(self, split: str) -> CheckedTokens | np.ndarray:
        """The flat array of `split`, whose pages are verified before they are used; the plain array where it was just
        verified whole, and its folder can't be written to."""
        file = self.folder / f"{split}.npy"
        return CheckedTokens(file, remedy(self.folder)) if checksums_of(file).exists() else open_tokens(file)

    def unigram_counts(self) -> np.ndarray:
        """[vocabulary] int64: occurrences of each id in the training tokens."""
        return np.load(self.folder / "unigram.npy")


def load_prepared(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> PreparedTokens:
    """Opens a folder that `prepare` made, which is verified but for the arrays' pages: those are when they are read.

    Raises UserError where it isn't one, where something in it isn't as it was written, or where it was made with
    another tokenizer than the given one.
    """
    try:
        described = read_object(folder / PREPARED)
        prepared = _described(folder, described)
        made_with, vocabulary = described["made_from"]["tokenizer"], described["vocabulary"]
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {PREPARED}: {remedy(folder)}") from error
    except DamagedFile as error:
        raise UserError(f"{folder / PREPARED} {error}: {remedy(folder)}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / PREPARED} is not what preparing tokens writes: {remedy(folder)}") from error
    _verify(prepared, vocabulary)
    if tokenizer and (made_with != fingerprint(tokenizer) or vocabulary != len(tokenizer)):
        raise UserError(
            f"the tokens of {folder} were made with the tokenizer {described.get('tokenizer_name')}, "
            f"{tokenizer.name_or_path} is another one: pass the one that they were made with"
        )
    return prepared


def _described(folder: Path, described: dict) -> PreparedTokens:
    """What prepared.json says. Raises DamagedFile where the hash of its figures isn't its fingerprint."""
    splits = {split: described["splits"][split] for split in SPLITS}
    if described["fingerprint"] != fingerprint_of(described["splits"]):
        raise DamagedFile("has other content than its fingerprint says")
    for about in splits.values():
        if not isinstance(about["tokens"], int) or not isinstance(about["documents"], int):
            raise TypeError("expected counts")
    if not isinstance(described["vocabulary"], int):
        raise TypeError("expected a number of tokens")
    return PreparedTokens(folder, described["fingerprint"], described["splits"])


def fingerprint_of(splits: dict) -> str:
    """What tells these tokens from others: the sha256 of the figures of all splits."""
    return hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()


def remedy(folder: Path) -> str:
    """What to do about a damaged folder."""
    return f"delete the folder {folder} and run again: it is made again (or fetch it again, if it came from elsewhere)"


def _verify(prepared: PreparedTokens, vocabulary: int) -> None:
    """Raises UserError where a file of the folder isn't as it was written; the arrays' pages are left to their readers.

    Without checksums the arrays are read through, and get some if the folder can be written to.
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
        _verify_whole(prepared, vocabulary)
    elif reason := damage(folder, CHECKSUMS):
        raise UserError(f"{folder} is damaged: {reason}: {remedy(folder)}")
    try:
        counts = prepared.unigram_counts()
        if counts.shape != (vocabulary,) or counts.dtype != np.int64:
            raise ValueError(f"expected {vocabulary} counts")
    except Exception as error:  # as in recipe.data.token_arrays.open_tokens
        raise UserError(f"{folder / 'unigram.npy'} is no whole array: {remedy(folder)}") from error


def _verify_whole(prepared: PreparedTokens, vocabulary: int) -> None:
    """Reads the arrays of a folder without checksums.json, compares them with their sha256, and writes what is missing.
    Ranks take turns, and all but the first find it there. Raises UserError where something is damaged."""
    folder = prepared.folder
    writable = os.access(folder, os.W_OK) and os.access(folder.parent, os.W_OK)
    with exclusive_lock(folder.parent / f"{folder.name}.lock", f"verifies {folder}") if writable else nullcontext():
        if (folder / CHECKSUMS).exists():
            return
        later = "once" if writable else "at each start, for nothing can be written there"
        print(f"verifying  {folder}, which has no {CHECKSUMS}: it is read through, {later}", flush=True)
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
                for made in SPLITS:
                    checksums_of(folder / f"{made}.npy").unlink(missing_ok=True)
                raise UserError(f"{file} {error}: {remedy(folder)}") from error
        if writable:
            write_checksums(folder)


def _same_counts(prepared: PreparedTokens, counts: np.ndarray) -> bool:
    try:
        return np.array_equal(prepared.unigram_counts(), counts)
    except Exception:  # as in recipe.data.token_arrays.open_tokens
        return False


def write_checksums(folder: Path) -> None:
    """checksums.json, of all files that are small enough to be hashed at each start."""
    named = (PREPARED, "unigram.npy", *(checksums_of(folder / f"{split}.npy").name for split in SPLITS))
    files = {name: folder / name for name in named if (folder / name).stat().st_size <= CHECKED_AT_START}
    write_atomically(folder / CHECKSUMS, manifest_of(files).encode())
