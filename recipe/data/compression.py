"""Compressed files: one record per format with its suffix, its first bytes, and how to open and read it."""

import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow

from recipe.data.meter import Meter

BUFFER = 1 << 16  # bytes


@dataclass(frozen=True)
class Compression:
    """A compression format; its key in COMPRESSIONS is its file suffix."""

    title: str  # for messages
    magic: bytes  # the first bytes of every such file
    open: Callable[[Any], Any]  # a binary stream to its decompressed one
    errors: tuple[type[Exception], ...] = ()  # what reading a damaged file raises, apart from OSError and EOFError


def _open_gzip(file: IO[bytes]) -> gzip.GzipFile:
    stream = gzip.GzipFile(fileobj=file)
    stream.myfileobj = file  # pyright: ignore[reportAttributeAccessIssue] (not in its stub): closed with the stream
    return stream


COMPRESSIONS: dict[str, Compression] = {
    ".gz": Compression("a gzip file", b"\x1f\x8b", _open_gzip, errors=(zlib.error,)),
    ".zst": Compression("a Zstandard file", b"\x28\xb5\x2f\xfd", partial(pyarrow.input_stream, compression="zstd")),
}
READ_ERRORS = (OSError, EOFError, *(error for compression in COMPRESSIONS.values() for error in compression.errors))
PLAIN_OR_COMPRESSED = f"plain or {' or '.join(COMPRESSIONS)}"


def format_suffix(path: Path) -> str:
    """The suffix of a file's name in lower case, without that of its compression: .jsonl for a.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_binary(path: Path, meter: Meter | None = None) -> io.BufferedReader:
    """Opens a file for reading bytes, decompressed if its suffix is in COMPRESSIONS; `meter` counts those read from the
    disk."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    file = _Metered(path, meter or Meter())
    if compression is None:
        return io.BufferedReader(file, BUFFER)
    return io.BufferedReader(compression.open(file), BUFFER)


class _Metered(io.FileIO):
    """A file whose reads are counted."""

    def __init__(self, path: Path, meter: Meter):
        super().__init__(path, "rb")
        self.meter = meter

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        self.meter.add(count)
        return count

    def read(self, size: int = -1) -> bytes:
        content = super().read(size)
        self.meter.add(len(content))
        return content
