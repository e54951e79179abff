"""The bytes of a text file as lines of text: compressed or not, in which encoding; what isn't text is named."""

import codecs
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import charset_normalizer

from recipe.data.compression import BUFFER, COMPRESSIONS
from recipe.system.errors import UserError

# A line of more characters than this comes in pieces, so that memory stays bounded whatever a file holds.
MAX_TEXT_CHARACTERS = 1_000_000
HEAD = BUFFER  # bytes that are looked at before a file is read: more cannot be peeked at
# So many letters beyond ASCII that are valid UTF-8 are no chance: a byte pair of GBK is valid one time in four.
CERTAIN_LETTERS = 10
WESTERN = "windows-1252"

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_EXPORT = "save its text as UTF-8 first"
_RENAME = "give the file the ending {}"
# (first bytes, what such a file is, what to do with it)
_KINDS = (
    (b"%PDF-", "a PDF", "extract its text first, for example with pdftotext"),
    (b"PK\x03\x04", "a zip archive (or a .docx, .xlsx, .odt or .epub, which are such)", f"unpack it, or {_EXPORT}"),
    *((c.magic, c.title, _RENAME.format(f"{suffix} after the one of its text")) for suffix, c in COMPRESSIONS.items()),
    (b"BZh", "a bzip2 file", "unpack it first, with bunzip2"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first, with unxz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.doc, .xls, .ppt)", _EXPORT),
    (b"{\\rtf", "a rich-text document (RTF)", _EXPORT),
    (b"PAR1", "a parquet file", _RENAME.format(".parquet")),
    (b"ARROW1\0\0", "an Arrow file of random access", "save it as parquet, or with save_to_disk"),
    (b"SQLite format 3\0", "an SQLite database", "export its text first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its text first"),
    (b"\x93NUMPY", "a NumPy array", "expected text; leave the file out"),
    (b"\x89PNG\r\n\x1a\n", "an image (PNG)", "expected text; leave the file out"),
    (b"\xff\xd8\xff", "an image (JPEG)", "expected text; leave the file out"),
    (b"GIF87a", "an image (GIF)", "expected text; leave the file out"),
    (b"GIF89a", "an image (GIF)", "expected text; leave the file out"),
    (b"\x7fELF", "a program", "expected text; leave the file out"),
    (b"\0\x05\x16\x07", "what macOS keeps of a file beside its content (AppleDouble)", "leave the file out"),
)
_TAR = slice(257, 262)  # where a tar archive says that it is one


def check_encoding(name: str) -> None:
    """Raises UserError for the name of an encoding that Python doesn't know or that isn't one of text."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError) as error:
        raise UserError(
            f"found --text_encoding {name}, expected the name of an encoding, such as {WESTERN}, utf-16 or gb18030"
        ) from error


def lines(path: Path, stream: io.BufferedReader, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """(number, text) of each line with its line end, which is \\n alone; a line longer than MAX_TEXT_CHARACTERS comes
    in pieces of at most so many characters, never cut inside a character.

    A byte-order mark decides the encoding. Without one a file is UTF-8, or `encoding` where it isn't UTF-8. Raises
    UserError with the line where the bytes are neither, and for what by its first bytes is no text at all.
    """
    head = stream.peek(HEAD)[:HEAD]
    _require_text(path, head)
    found = _encoding_of(head, encoding)
    if found == "utf-8":
        yield from _utf8_lines(path, stream)
    else:
        yield from _decoded_lines(path, stream, found)


def whole_lines(pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The same lines with their pieces joined."""
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
        raise UserError(f"{path}, line {number}: the file ends inside a UTF-8 character: it is cut short")


def _with_zeros(raw: bytes) -> str:
    """What a line with zero bytes is, and what to do."""
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
    """The name of the encoding that `sample`, which isn't UTF-8, is most likely in, as Python and iconv know it.

    Windows-1252 is asked first: every Western text is valid in a dozen encodings that differ in a few letters, and this
    one is what Windows writes."""
    western = charset_normalizer.from_bytes(sample, cp_isolation=["cp1252"]).best()
    found = western or charset_normalizer.from_bytes(sample, cp_exclusion=["utf_8", "ascii"]).best()
    name = found.encoding if found else "cp1252"
    return f"windows-{name[2:]}" if name.startswith("cp125") else name.replace("_", "-")
