"""Text files decoded to lines: compression, encodings, and files that aren't text, which are refused by name."""

import codecs
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import charset_normalizer

from recipe.data.compression import BUFFER, COMPRESSIONS
from recipe.system.errors import UserError

# Longer lines are split into pieces, so that memory stays bounded whatever a file holds.
MAX_TEXT_CHARACTERS = 1_000_000
HEAD = BUFFER  # bytes at the beginning of a file that decide its kind and encoding; peeking is limited to the buffer
# That many non-ASCII characters of valid UTF-8 are no coincidence: one byte pair of GBK in four is valid UTF-8.
CERTAIN_LETTERS = 10
WESTERN = "windows-1252"

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the first two bytes of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_EXPORT = "save its text as UTF-8 first"
_RENAME = "give the file the suffix {}"
# (first bytes, what such a file is, what to do)
_KINDS = (
    (b"%PDF-", "a PDF", "extract its text first, for example with pdftotext"),
    (b"PK\x03\x04", "a zip archive (as are .docx, .xlsx, .odt and .epub)", f"unpack it, or {_EXPORT}"),
    *(
        (c.magic, c.title, _RENAME.format(f"{suffix} after the suffix of its text"))
        for suffix, c in COMPRESSIONS.items()
    ),
    (b"BZh", "a bzip2 file", "unpack it first, with bunzip2"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first, with unxz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.doc, .xls, .ppt)", _EXPORT),
    (b"{\\rtf", "a rich-text document (RTF)", _EXPORT),
    (b"PAR1", "a parquet file", _RENAME.format(".parquet")),
    (b"ARROW1\0\0", "an Arrow file in the random-access format", "save it as parquet, or with save_to_disk"),
    (b"SQLite format 3\0", "an SQLite database", "export its text first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its text first"),
    (b"\x93NUMPY", "a NumPy array", "expected text; leave the file out"),
    (b"\x89PNG\r\n\x1a\n", "an image (PNG)", "expected text; leave the file out"),
    (b"\xff\xd8\xff", "an image (JPEG)", "expected text; leave the file out"),
    (b"GIF87a", "an image (GIF)", "expected text; leave the file out"),
    (b"GIF89a", "an image (GIF)", "expected text; leave the file out"),
    (b"\x7fELF", "a program", "expected text; leave the file out"),
    (b"\0\x05\x16\x07", "macOS metadata of another file (AppleDouble)", "leave the file out"),
)
_TAR = slice(257, 262)  # the position of "ustar" in a tar archive


def check_encoding(name: str) -> None:
    """Raises UserError for a name that isn't a text encoding known to Python."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError) as error:
        raise UserError(
            f"found --text_encoding {name}, expected the name of an encoding, such as {WESTERN}, utf-16 or gb18030"
        ) from error


def lines(path: Path, stream: io.BufferedReader, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yields (line number, text) of each line with its line end; only \\n ends a line. A line longer than
    MAX_TEXT_CHARACTERS is split into pieces of at most that many characters.

    A byte-order mark decides the encoding. Without one, a file is UTF-8 or, where it isn't valid UTF-8, `encoding`.
    Raises UserError, with the line, for bytes that are neither, and for files that aren't text by their first bytes.
    """
    head = stream.peek(HEAD)[:HEAD]
    _require_text(path, head)
    found = _encoding_of(head, encoding)
    if found == "utf-8":
        yield from _utf8_lines(path, stream)
    else:
        yield from _decoded_lines(path, stream, found)


def whole_lines(pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Joins the pieces of each line that `lines` yields."""
    parts: list[str] = []
    number = 0
    for number, piece in pieces:
        parts.append(piece)
        if piece.endswith("\n"):
            yield number, "".join(parts)
            parts.clear()
    if parts:
        yield number, "".join(parts)


def _require_text(path: Path, head: bytes) -> None:
    for first, what, remedy in _KINDS:
        if head.startswith(first):
            raise UserError(f"{path} is {what}, not text: {remedy}")
    if head[_TAR] == b"ustar":
        raise UserError(f"{path} is a tar archive, not text: {_RENAME.format('.tar')}, or unpack it")


def _encoding_of(head: bytes, encoding: str | None) -> str:
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return "utf-8"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return encoding
    return "utf-8" if sum(letter > "\x7f" for letter in text) >= CERTAIN_LETTERS else encoding


def _utf8_lines(path: Path, stream: io.BufferedReader) -> Iterator[tuple[int, str]]:
    number, carried = 1, b""
    while raw := stream.readline(MAX_TEXT_CHARACTERS):
        raw = (carried + raw).removeprefix(codecs.BOM_UTF8) if number == 1 else carried + raw
        if b"\0" in raw:
            raise UserError(f"{path}, line {number}: found a zero byte, expected UTF-8 text: {_with_zeros(raw)}")
        try:
            text, carried = raw.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if not raw.endswith(b"\n") and error.reason == "unexpected end of data" and len(raw) >= MAX_TEXT_CHARACTERS:
                text, carried = raw[: error.start].decode("utf-8"), raw[error.start :]
            else:
                guess = guess_encoding(raw[-HEAD:] + stream.read(HEAD))
                raise UserError(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8, it looks like {guess}: pass "
                    f"--text_encoding {guess}, or convert the file, iconv -f {guess} -t utf-8 {path.name} > new.txt"
                ) from error
        yield number, text
        number += raw.endswith(b"\n")
    if carried:
        raise UserError(f"{path}, line {number}: the file ends inside a UTF-8 character: it is incomplete")


def _with_zeros(raw: bytes) -> str:
    """What a line with zero bytes probably is, and what to do."""
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = raw[first::2]
        if len(raw) > 3 and half.count(0) > 0.4 * len(half) and not raw[1 - first :: 2].count(0):
            return f"this looks like {name} without a byte-order mark: pass --text_encoding {name}"
    return "this file is binary, leave it out"


def _decoded_lines(path: Path, stream: io.BufferedReader, encoding: str) -> Iterator[tuple[int, str]]:
    number = 1
    reader = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
    try:
        while piece := reader.readline(MAX_TEXT_CHARACTERS):
            if "\0" in piece:
                raise UserError(f"{path}, line {number}: found a zero character, expected text in {encoding}")
            yield number, piece
            number += piece.endswith("\n")
    except UnicodeError as error:
        raise UserError(
            f"{path}, at or after line {number}: found bytes that are not {encoding} ({error}): pass another "
            "--text_encoding, or convert the file to UTF-8"
        ) from error


def guess_encoding(sample: bytes) -> str:
    """The most likely encoding of `sample`, which isn't UTF-8, by a name that both Python and iconv know.

    Windows-1252 is tried first: Western text is valid in a dozen encodings that differ in a few letters, and this is
    the one that Windows writes.
    """
    western = charset_normalizer.from_bytes(sample, cp_isolation=["cp1252"]).best()
    found = western or charset_normalizer.from_bytes(sample, cp_exclusion=["utf_8", "ascii"]).best()
    name = found.encoding if found else "cp1252"
    return f"windows-{name[2:]}" if name.startswith("cp125") else name.replace("_", "-")
