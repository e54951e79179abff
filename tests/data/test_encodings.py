"""Encodings of users' files: which are detected, which are suggested in errors, and files that aren't text."""

import codecs
import gzip
import io
import subprocess
import tarfile
import zipfile

import pandas
import pyarrow
import pytest

from recipe.data.corpus import open_corpus
from recipe.data.encodings import guess_encoding
from recipe.system.errors import UserError

TEXT = "It’s a “quoted” sentence – with dashes … and a café in Köln.\nŒuvre, naïve, €5."
OTHER_ENCODINGS = {  # text as Windows and other systems encode it
    "windows-1252": TEXT * 3,
    "windows-1251": "Широкая электрификация южных губерний даст мощный толчок подъёму сельского хозяйства.\n" * 3,
    "gb18030": "今天天气很好，我们一起去公园散步，然后在湖边吃了午饭。\n" * 3,
    "koi8-r": "Широкая электрификация южных губерний даст мощный толчок подъёму сельского хозяйства.\n" * 3,
    "windows-1253": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.\n" * 3,
}


def read(path, **options):
    return list(open_corpus(str(path), **options).train.documents())


def packed(path, content):
    """Writes the content to `path`, and compressed to files beside it; returns all paths."""
    names = [path, path.with_name(path.name + ".gz"), path.with_name(path.name + ".zst")]
    for name, bytes_ in zip(
        names, (content, gzip.compress(content), pyarrow.compress(content, "zstd", True)), strict=True
    ):
        name.write_bytes(bytes_)
    return names


def as_file(ending, text):
    """`text` as the content of a file with this suffix."""
    if ending == "jsonl":
        return pandas.DataFrame({"text": [text]}).to_json(orient="records", lines=True, force_ascii=False)
    if ending in ("csv", "tsv"):
        return pandas.DataFrame({"text": [text]}).to_csv(index=False, sep="\t" if ending == "tsv" else ",")
    return text


@pytest.mark.parametrize("ending", ["txt", "py", "jsonl", "csv", "tsv"])
def test_every_format_in_every_encoding(tmp_path, ending):
    text = TEXT.replace("\n", " ") if ending == "tsv" else TEXT
    content = as_file(ending, text)
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ):
        for path in packed(tmp_path / f"{encoding}.{ending}", mark + content.encode(encoding)):
            assert read(path) == [text]
    for path in packed(tmp_path / f"windows.{ending}", content.encode("cp1252")):
        with pytest.raises(UserError, match="looks like windows-1252: pass --text_encoding windows-1252"):
            read(path)
        assert read(path, text_encoding="windows-1252") == [text]
    for path in packed(tmp_path / f"unmarked.{ending}", content.encode("utf-16-le")):
        with pytest.raises(UserError, match="utf-16-le without a byte-order mark: pass --text_encoding utf-16-le"):
            read(path)
        assert read(path, text_encoding="utf-16-le") == [text]


@pytest.mark.parametrize("encoding", OTHER_ENCODINGS)
def test_the_error_contains_a_correct_conversion_command(tmp_path, encoding):
    content = OTHER_ENCODINGS[encoding].encode(encoding)
    assert guess_encoding(content) == encoding
    path = tmp_path / "old.txt"
    path.write_bytes(b"plain first line\n" + content)
    with pytest.raises(UserError, match=r"line 2: byte 0x\w\w is not UTF-8") as error:
        read(path)
    command = str(error.value).split("convert the file, ")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (
        read(tmp_path / "new.txt")
        == read(path, text_encoding=encoding)
        == [f"plain first line\n{OTHER_ENCODINGS[encoding]}".strip()]
    )


def test_the_encoding_applies_only_to_files_that_are_not_utf_8(tmp_path):
    for name, encoding in (("0", "utf-8"), ("1", "cp1252"), ("2", "utf-16")):
        (tmp_path / f"{name}.txt").write_bytes((TEXT * 2).encode(encoding))
    assert read(tmp_path, text_encoding="windows-1252") == [TEXT * 2] * 3
    (tmp_path / "1.txt").write_bytes(b"good\n\x81\n")
    with pytest.raises(UserError, match=r"1\.txt, at or after line 1: found bytes that are not windows-1252"):
        read(tmp_path, text_encoding="windows-1252")


def test_long_lines_in_other_encodings_are_split_into_bounded_pieces(tmp_path):
    (tmp_path / "a.txt").write_bytes(("語" * 2_500_000).encode("utf-16"))
    assert [len(piece) for piece in read(tmp_path / "a.txt")] == [1_000_000, 1_000_000, 500_000]


def test_lines_end_at_the_same_places_in_every_encoding(tmp_path):
    text = "one\rtwo\u2028three\u0085\r\nfour\r\n\r\nfive"
    for encoding in ("utf-8", "utf-16", "utf-32"):
        (tmp_path / "a.txt").write_bytes(text.encode(encoding))
        assert read(tmp_path / "a.txt") == ["one\rtwo\u2028three\nfour", "five"]


def zip_of(text):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", text)
    return stream.getvalue()


def tar_of(text):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "is a PDF, not text: extract its text first"),
        (zip_of("a"), r"is a zip archive \(as are \.docx"),
        (tar_of("a"), "is a tar archive, not text"),
        (gzip.compress(b"text", mtime=0), r"is a gzip file, not text: give the file the suffix \.gz"),
        (pyarrow.compress(b"text", "zstd", True), r"is a Zstandard file, not text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is an image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is an image"),
        (b"PAR1\x15\x04", r"is a parquet file, not text: give the file the suffix \.parquet"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "AppleDouble"),
        (b"SQLite format 3\0\x10", "is an SQLite database"),
        (b"{\\rtf1\\ansi", "is a rich-text document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "is an old Office document"),
        (b"\x7fELF\x02\x01\x01", "is a program"),
        (b"\x01\x02\0\0\x03\0\0\x04", "line 1: found a zero byte, expected UTF-8 text: this file is binary"),
    ],
)  # fmt: skip
def test_files_that_are_not_text_are_refused_with_their_kind(tmp_path, content, message):
    for name in ("a.txt", "a.jsonl", "a.csv", "a.py"):
        for path in packed(tmp_path / name, content):
            with pytest.raises(UserError, match=message) as error:
                read(path, text_encoding="windows-1252" if "zero byte" not in message else None)
            assert name in str(error.value) and "\n" not in str(error.value)
