"""Flat arrays of token ids on disk: their integer type, and page checksums that detect damage before it is used.

Beside each array NAME.npy is NAME.crc32.npy, one CRC-32 per 4 KiB page of the file (0.1 % of its size). A page is
verified when a process first reads from it, so that starting takes no time however large the array is, and no step
sees a damaged token. CRC-32 detects every change within 32 consecutive bits, and misses any other with a probability
of 1 in 4 billion.
"""

import hashlib
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recipe.system.errors import RankError
from recipe.system.files import DamagedFile, atomic_output
from recipe.system.progress import BYTES, Progress

PAGE = 4096  # bytes: the unit in which the operating system reads a memory-mapped file
CHUNK_PAGES = 1024  # read at a time where all of a file is read


def token_dtype(vocabulary: int) -> type[np.unsignedinteger]:
    """The smallest integer type that holds the ids 0 to `vocabulary` - 1."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


def checksums_of(file: Path) -> Path:
    """The path of the page checksums of an array's file."""
    return file.with_name(f"{file.stem}.crc32.npy")


class CheckedTokens:
    """A memory-mapped flat array of token ids; slices and `verified` return only tokens whose pages were verified.

    Forked DataLoader workers share the record of verified pages. `array` is the unverified array. Raises DamagedFile
    where the file's size doesn't match its header, or the number of checksums its number of pages.
    """

    def __init__(self, file: Path, remedy: str):
        self.file, self.remedy = file, remedy
        self.array = open_tokens(file)
        self.bytes = np.memmap(file, np.uint8, mode="r")
        self.first_byte = len(self.bytes) - self.array.nbytes
        pages = -(-len(self.bytes) // PAGE)
        try:
            self.checksums = np.load(checksums_of(file), mmap_mode="r")
        except Exception as error:  # as in open_tokens
            raise DamagedFile(f"has checksums that cannot be read ({str(error).splitlines()[0]})") from error
        if self.checksums.shape != (pages,) or self.checksums.dtype != np.uint32:
            raise DamagedFile(f"has {self.checksums.size} checksums for {pages} pages")
        # Zeroed by the operating system, and shared with processes that are forked later.
        self.page_verified = np.frombuffer(mmap.mmap(-1, pages), dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: slice) -> np.ndarray:
        """A slice of the tokens, verified."""
        start, stop, _ = part.indices(len(self))
        return self.verified(np.array([start]), np.array([stop]))[part]

    def __reduce__(self):  # a worker that isn't forked opens the file itself
        return type(self), (self.file, self.remedy)

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def verified(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Verifies the tokens in the ranges [starts, stops), then returns the complete array.

        Raises RankError, which names the file, the damaged bytes and the remedy, where a page doesn't match its
        checksum.
        """
        size = self.array.itemsize
        first, last = (self.first_byte + starts * size) // PAGE, (self.first_byte + stops * size - 1) // PAGE
        pages = np.minimum(first[:, None] + np.arange(1 + (last - first).max(initial=0)), last[:, None])
        for page in np.unique(pages[~self.page_verified[pages]]).tolist():
            begin, end = page * PAGE, min((page + 1) * PAGE, len(self.bytes))
            if zlib.crc32(self.bytes[begin:end].data) != self.checksums[page]:
                raise RankError(
                    f"{self.file} is damaged: bytes {begin} to {end - 1} changed after they were written: {self.remedy}"
                )
            self.page_verified[page] = True
        return self.array


def open_tokens(file: Path) -> np.ndarray:
    """The flat array of ids in a file, memory-mapped. Raises DamagedFile for any other content or size."""
    try:
        array = np.load(file, mmap_mode="r")
    except Exception as error:  # np.load raises the errors of zip files, pickles and headers, whichever it sees
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DamagedFile(f"is not a complete array ({reason})") from error
    if not isinstance(array, np.memmap) or array.ndim != 1 or array.dtype not in (np.uint16, np.uint32):
        raise DamagedFile("is not a flat array of uint16 or uint32")
    if array.offset + array.nbytes != (found := file.stat().st_size):
        raise DamagedFile(f"has {found} bytes, expected {array.offset + array.nbytes}")
    return np.asarray(array)  # a plain view: slicing an np.memmap is ten times slower


def _read_in_chunks(file: Path, digest, checksums: list[int]) -> Iterator[np.ndarray]:
    """Yields the tokens of an array's file in order; updates the hashlib object `digest` with their bytes and appends
    the checksum of each page of the file to `checksums`."""
    array = open_tokens(file)
    header = file.stat().st_size - array.nbytes
    with file.open("rb") as stream:
        while chunk := stream.read(PAGE * CHUNK_PAGES):
            checksums += [zlib.crc32(chunk[start : start + PAGE]) for start in range(0, len(chunk), PAGE)]
            tokens = chunk[header:]
            header = 0
            digest.update(tokens)
            yield np.frombuffer(tokens, array.dtype)


def summarise(file: Path, vocabulary: int, write: bool) -> tuple[str, np.ndarray]:
    """(sha256 of the tokens, [vocabulary] int64 counts of each id) of an array's file, read once; with `write`, also
    writes the page checksums. Raises DamagedFile for ids outside of the vocabulary."""
    digest, counts, checksums = hashlib.sha256(), np.zeros(vocabulary, dtype=np.int64), []
    with Progress(f"counting the tokens of {file.name}", file.stat().st_size, BYTES) as progress:
        for tokens in _read_in_chunks(file, digest, checksums):
            found = np.bincount(tokens, minlength=vocabulary)
            if len(found) > vocabulary:
                raise DamagedFile(f"holds the id {len(found) - 1}, its tokenizer has {vocabulary} tokens")
            counts += found
            progress.update(tokens.nbytes)
    if write:
        with atomic_output(checksums_of(file)) as partial, partial.open("wb") as stream:
            np.save(stream, np.array(checksums, dtype=np.uint32))
    return digest.hexdigest(), counts
