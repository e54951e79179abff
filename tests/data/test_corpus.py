"""Corpora in every format give the expected documents; unusable files are refused by name and line."""

import gzip
import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from toy import SHARED_DATA, toy_documents

from recipe.data.corpus import open_corpus
from recipe.data.preparation import prepare_tokens
from recipe.data.text_files import MAX_TEXT_CHARACTERS
from recipe.system.errors import SourceBroken, UserError

TEXTS = ["first document,\nof two lines", "second: naïve “quotes”", "third"]


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def write(path, kind):
    if kind == "txt":
        path.write_text("\n" + "\n \n\n".join(TEXTS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS) + "\n")
    elif kind == "csv":
        pandas.DataFrame({"id": range(3), "text": TEXTS}).to_csv(path, index=False)
    elif kind == "tsv":
        pandas.DataFrame({"id": range(3), "text": TEXTS}).to_csv(path, index=False, sep="\t")
    elif kind == "parquet":
        pandas.DataFrame({"text": [*TEXTS, None, "  "]}).to_parquet(path)
    return path


def read(path, **options):
    return list(open_corpus(str(path), **options).train.documents())


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "parquet"])
def test_formats(tmp_path, kind):
    path = write(tmp_path / f"corpus.{kind}", kind)
    quoted = {"csv_quoting": "minimal"} if kind == "tsv" else {}  # pandas puts cells with line breaks in quotes
    assert read(path, **quoted) == TEXTS
    if kind != "parquet":
        for suffix, compress in ((".gz", gzip.compress), (".zst", zstd)):
            packed = tmp_path / f"packed.{kind}{suffix}"
            packed.write_bytes(compress(path.read_bytes()))
            assert read(packed, **quoted) == TEXTS


CODE = "def f(x):\n    if x:\n\treturn 1\n\n\n    return  2  \n"


def test_source_code_keeps_its_indentation(tmp_path):
    for name in ("a.py", "a.MD", "a.html", "a.tex", "a.py.gz"):
        content = f"\n \n  {CODE}\n\n".replace("\n", "\r\n").encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        assert read(tmp_path / name) == ["  " + CODE.rstrip()]
    (tmp_path / "a.txt").write_text(CODE)
    assert read(tmp_path / "a.txt") == ["def f(x):\n    if x:\n\treturn 1", "    return  2"]
    assert read(tmp_path / "a.txt", keep_linebreaks=False) == ["def f(x): if x: return 1", "return  2"]
    for name in ("a.txt", "a.py"):
        lines = ["def f(x):", "    if x:", "\treturn 1", "    return  2"]
        assert read(tmp_path / name, line_by_line=True) == lines if name == "a.txt" else ["  " + lines[0], *lines[1:]]
    (tmp_path / "long.py").write_text("    x = 1\n" * 150_000)
    pieces = read(tmp_path / "long.py")
    assert len(pieces) == 2 and "\n".join(pieces) == ("    x = 1\n" * 150_000).rstrip()


def test_white_space_of_prose_is_normalised(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" = Title = \n \n A sentence . \n Another . \n\n\u3000\u3000中文。\r\n\tnot WikiText\n plain\n")
    assert read(path) == ["= Title =", "A sentence .\nAnother .", "中文。\n\tnot WikiText\n plain"]
    if (SHARED_DATA / "wikitext-2").is_dir():
        texts = read(SHARED_DATA / "wikitext-2" / "valid.txt")
        assert all(text == "\n".join(line.strip() for line in text.split("\n")) for text in texts)


def test_nested_fields_and_lists(tmp_path):
    rows = [
        {"data": {"text": " a "}, "parts": [{"text": "x"}, {"text": "y"}], "lines": ["one", None, " two "]},
        {"data": {"text": "b"}, "parts": [], "lines": []},
        {"data": None, "parts": None, "lines": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.jsonl", "a.parquet", "a.arrow"):
        assert read(tmp_path / name, text_column="data.text") == ["a", "b"]
        assert read(tmp_path / name, text_column="parts.text") == ["x\n\ny"]
        assert read(tmp_path / name, text_column="lines") == ["one\n\ntwo"]
        with pytest.raises(UserError, match=r"found no column 'data\.body', only data(\.text)?, parts, lines: pass"):
            read(tmp_path / name, text_column="data.body")
        with pytest.raises(UserError, match="column 'data' holds a dict, expected text"):
            read(tmp_path / name, text_column="data")
    (tmp_path / "b.jsonl").write_text('{"a.b": "whole", "a": {"b": "nested"}}\n')
    assert read(tmp_path / "b.jsonl", text_column="a.b") == ["whole"]


def test_json_lines_end_only_at_line_feeds(tmp_path):
    texts = ["one\u2028two", "three\u0085four\u2029", "five\x0bsix\x0c\x1c"]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts[:2])
        + json.dumps({"text": texts[2]})
        + "\r\n"
    )
    assert read(tmp_path / "a.jsonl") == [text.strip() for text in texts]
    (tmp_path / "long.jsonl").write_text('{"text": "' + "é" * 1_600_000 + '"}\n{"text": "b"}')
    assert [len(text) for text in read(tmp_path / "long.jsonl")] == [1_600_000, 1]


def test_lone_surrogates_are_replaced_and_counted(tmp_path, bpe, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "good \\ud83d\\ude00"}\n')
    (tmp_path / "b.jsonl").write_text(
        '{"text": "cut \\ud83d end"}\n{"text": null}\n{"text": " "}\n{"text": "\\udc00\\ud83d"}\n'
    )
    corpus = open_corpus(str(tmp_path))
    for _ in range(2):
        assert list(corpus.train.documents()) == ["good 😀", "cut \ufffd end", "\ufffd\ufffd"]
    assert capsys.readouterr().out.splitlines() == [
        f"warning: replaced 3 lone surrogates (halves of a character) by U+FFFD, the first in {tmp_path / 'b.jsonl'}",
        "skipped 2 records without text (null or blank)",
    ]
    assert prepare_tokens(corpus, bpe, tmp_path / "data", validation_percentage=50)


def test_lines_as_documents(tmp_path):
    assert len(read(write(tmp_path / "a.txt", "txt"), line_by_line=True)) == 4


def test_files_of_a_folder_are_assigned_to_splits_by_name(tmp_path):
    for name in ("train-1.txt", "train-0.txt", "validation-0.txt", "test.txt", "notes.md"):
        (tmp_path / name).write_text(name)
    corpus = open_corpus(str(tmp_path))
    assert list(corpus.train.documents()) == ["train-0.txt", "train-1.txt"]
    assert list(corpus.validation.documents()) == ["validation-0.txt"]
    assert open_corpus(str(tmp_path / "train-*.txt")).validation is None


def test_a_file_name_is_never_run_by_a_shell(tmp_path):
    path = tmp_path / "$(touch pwned).txt"
    path.write_text("text")
    assert read(path) == ["text"] and not (tmp_path / "pwned").exists()


def test_text_without_blank_lines_is_split_into_bounded_pieces(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("é" * (2 * MAX_TEXT_CHARACTERS + 5))
    pieces = read(path)
    assert max(map(len, pieces)) <= MAX_TEXT_CHARACTERS * 1.3 and sum(map(len, pieces)) == 2 * MAX_TEXT_CHARACTERS + 5
    path.write_text("word\n" * (MAX_TEXT_CHARACTERS // 2))
    assert max(map(len, read(path))) <= MAX_TEXT_CHARACTERS * 1.3


def test_the_built_in_corpus_has_millions_of_characters_and_no_duplicates():
    documents = read("docstrings")
    assert len(documents) > 5000 and len(set(documents)) == len(documents)
    assert 8e6 < sum(map(len, documents)) < 3e7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "found no text at"),
        ("empty.txt", b"", "is empty"),
        ("image.png", b"\x89PNG", "unknown format"),
        ("binary.txt", b"text\nmore\0text", "line 2: found a zero byte"),
        ("latin.txt", "gut\nschön\n".encode("latin-1"), "line 2: byte 0xf6 is not UTF-8, it looks like windows-1252"),
        ("cut.txt.gz", gzip.compress(b"text " * 10_000, mtime=0)[:40], "is damaged or incomplete"),
        ("cut.txt.zst", zstd(bytes(range(1, 127)) * 99)[:60], "is damaged or incomplete"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("digits.jsonl", b'{"text": "a", "id": ' + b"1" * 5000 + b"}\n", "line 1: not JSON .*digits"),
        ("list.jsonl", b"[1, 2]\n", "line 1: found a list"),
        ("other.jsonl", b'{"body": "a"}\n', "line 1: found no column 'text', only body"),
        ("number.jsonl", b'{"text": 5}\n', "line 1: column 'text' holds a int"),
        ("ids.jsonl", b'{"text": ["a", 5]}\n', "line 1: column 'text' holds a int"),
        ("nested.jsonl", b'{"data": {"body": "a"}, "id": 1}\n', "found no column 'text', only data.body, id"),
        ("array.json", b'[{"text": "a"}, {"text": "b"}]\n', r"found a list.*jq -c '\.\[\]' array\.json > array\.jsonl"),
        ("pretty.json", b'[\n  {\n    "text": "a"\n  }\n]\n', r"one JSON value over many lines.*jq -c '\.\[\]' pretty"),
        ("object.json", b'{\n  "text": "a"\n}\n', r"one JSON value over many lines.*jq -c \. object\.json"),
        ("other.csv", b"id,body\n1,a\n", "found no column 'text', only id, body"),
        ("short.csv", b"text,id,body\na,1\n".replace(b"text,id,body", b"id,body,text"), "line 2: found fewer fields"),
        ("broken.parquet", b"PAR1 not really", "is a damaged or incomplete parquet file"),
    ],
)
def test_unusable_files_are_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_an_unusable_file_is_found_before_the_first_file_is_read(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.jsonl", "jsonl")
    (tmp_path / "3.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(UserError, match=r"3\.jsonl, line 1: found no column 'text', only body"):
        next(open_corpus(str(tmp_path)).train.documents())


def test_the_text_column_can_be_chosen(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a"}\n')
    assert read(path, text_column="body") == ["a"]


def test_exactly_one_source_is_required():
    for arguments in ({}, {"dataset": "docstrings", "train_file": "a.txt"}):
        with pytest.raises(UserError, match="exactly one"):
            open_corpus(**arguments)


def test_without_a_network_the_error_says_what_to_pass_instead_of_a_hub_dataset(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be reached from here: pass a local file"):
        open_corpus("somebody/something")


def test_a_hub_dataset_is_read_at_one_commit_and_a_lost_connection_is_no_user_error(monkeypatch):
    import datasets
    import huggingface_hub

    opened = []

    def load_dataset(name, config, revision, **options):
        opened.append((name, config, revision, options["streaming"]))
        split = datasets.Dataset.from_dict({"text": ["a", " ", "b"]}).to_iterable_dataset()
        return datasets.IterableDatasetDict({"train": split, "validation": split.map(fail_at_b)})

    def fail_at_b(row):
        if row["text"] == "b":
            raise ConnectionError("connection lost")
        return row

    about = type("About", (), {"sha": "abc123"})
    monkeypatch.setattr("recipe.data.corpus.require_hub", lambda *args: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: about)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = open_corpus("somebody/something", config="en")
    assert opened == [("somebody/something", "en", "abc123", True)]
    assert list(corpus.train.documents()) == ["a", "b"]
    assert corpus.train.description["commit"] == "abc123" and corpus.name == "somebody-something-en"
    with pytest.raises(SourceBroken, match=r"was interrupted: connection lost: run again to continue it"):
        list(corpus.validation.documents())


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl.zst", ".parquet"])
def test_the_meter_counts_the_bytes_of_the_files(suffix, tmp_path):
    documents = toy_documents(4000)
    for name in ("a", "b"):
        path = tmp_path / f"{name}{suffix}"
        text = "\n\n".join(documents) if ".txt" in suffix else "\n".join(json.dumps({"text": d}) for d in documents)
        if suffix.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.table({"text": documents}), path)
        elif suffix.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif suffix.endswith(".zst"):
            with pyarrow.output_stream(path, compression="zstd") as stream:
                stream.write(text.encode())
        else:
            path.write_text(text)
    train = open_corpus(str(tmp_path)).train
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    for _ in range(2):  # a new stream counts from the beginning
        counts = [train.meter.done for _ in train.documents()]
        assert train.meter.total == total and train.meter.done == pytest.approx(total)
        assert counts == sorted(counts) and counts[0] <= total / 2
        assert counts[len(counts) // 4] < total * 0.55 and counts[len(counts) * 3 // 4] >= total * 0.5
