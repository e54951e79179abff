"""CSV and TSV: quotes and delimiters, and that neither a stray quote nor a short row silently loses text."""

import csv

import pytest
from toy import toy_documents

from recipe.data.arguments import DataArguments
from recipe.data.corpus import open_corpus
from recipe.system.errors import UserError


def read(path, **options):
    return list(open_corpus(str(path), **options).train.documents())


def table(path, rows, header="id,text"):
    """Writes a file whose cells are joined without any quoting."""
    separator = "\t" if path.suffix == ".tsv" else ","
    path.write_text(
        "\n".join([header.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]) + "\n"
    )
    return path


TEXTS = [text.replace(",", "") for text in toy_documents(200)]


@pytest.mark.parametrize("places", [(50,), (50, 90), (50, 51)])
def test_stray_quotes_lose_no_row(tmp_path, places):
    texts = [f'"{text}' if place in places else text for place, text in enumerate(TEXTS)]
    assert read(table(tmp_path / "a.tsv", enumerate(texts))) == texts
    path = table(tmp_path / "a.csv", enumerate(texts))
    with pytest.raises(UserError, match=r"a\.csv, line(s)? 52"):
        read(path)
    assert read(path, csv_quoting="none") == texts


def test_a_quote_closed_by_chance_is_detected_by_the_rows_inside_the_cell(tmp_path):
    texts = list(TEXTS)
    texts[50] = f'"{texts[50]}'
    for last in (51, 90):  # still valid CSV: one quote opens a cell, the other closes it
        changed = [*texts[:last], f'{texts[last]} 5"', *texts[last + 1 :]]
        path = table(tmp_path / "a.csv", enumerate(changed))
        with pytest.raises(
            UserError, match=rf"line 52: a quote opens a cell that ends on line {last + 2}, and its lines look like"
        ):
            read(path)
        assert len(read(path, csv_quoting="minimal")) == 200 - (last - 50)
        assert read(path, csv_quoting="none") == changed
    path = table(
        tmp_path / "b.csv", [(f'"{texts[0]}', "a"), *((text, "a") for text in TEXTS[1:90]), ('b"', "a")], "text,from"
    )
    with pytest.raises(UserError, match="line 2: a quote opens a cell that ends on line 92"):
        read(path)


def test_an_unclosed_quote_takes_bounded_memory(tmp_path):
    path = table(tmp_path / "a.csv", [(0, '"open'), *((number, "text") for number in range(1, 30_000))])
    with pytest.raises(UserError, match="line 2: a quote opens a cell that ends on line 10001"):
        read(path)


def test_line_breaks_inside_cells_are_text(tmp_path):
    texts = [
        "first, and\nsecond, line",
        "a list:\n1. milk, sugar\n2. bread, salt\n",
        'he said "no",\nthen\n\n"yes, yes"',
        "\n".join(f"verse {number}, of many, or few" for number in range(300)),
        "x" * 1_600_000,
        "long, " * 300_000,
    ]
    one_comma = "\n".join(f"{number}, verse" for number in range(300))
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        for header, rows in (
            (("id", "text"), [*enumerate([*texts, one_comma])]),
            (("text", "label"), [(text, place) for place, text in enumerate([*texts, one_comma])]),
            (("title", "text"), [("title", text) for text in [*texts, one_comma]]),
        ):
            with (tmp_path / "a.csv").open("w", newline="") as stream:
                csv.writer(stream, quoting=quoting).writerows([header, *rows])
            assert read(tmp_path / "a.csv") == [text.strip() for text in [*texts, one_comma]]


def test_a_field_of_any_length_needs_no_quotes(tmp_path):
    texts = ["é" * 1_600_000, "short", "word " * 500_000 + "end"]
    for name in ("a.csv", "a.tsv"):
        assert read(table(tmp_path / name, enumerate(texts))) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,text\n1,hello, world\n", "line 2: found more fields than the header has, 3 instead of 2.*quotes"),
        ("a.csv", "id,text\n0,a\n1\n", "line 3: found fewer fields than the header has, 1 instead of 2"),
        ("a.csv", "text,id,label\na,1\n", "line 2: found fewer fields"),
        ("a.tsv", "id\ttext\n1\ta\tb\n", "line 2: found more fields than the header has, 3 instead of 2"),
        ("a.tsv", 'id\ttext\n1\t"one\ntwo"\n', "line 3: found fewer fields.*pass --csv_quoting minimal"),
        ("a.tsv", 'id\ttext\n1\t"he said ""no"""\n', "line 2: found a cell in quotes with doubled quotes.*minimal, or none"),
        ("a.tsv", '"id"\t"text"\n"1"\t"a"\n', "found the column names in quotes: pass --csv_quoting minimal"),
        ("a.csv", "id;text\n1;a, b\n", "separated by a semicolon, not by a comma: pass --csv_delimiter ';'"),
        ("a.csv", "id\ttext\n1\ta\n", "separated by a tab, not by a comma: pass --csv_delimiter tab"),
        ("a.tsv", "id,text\n1,a\n", "separated by a comma, not by a tab: pass --csv_delimiter ','"),
        ("a.csv", "text,text\na,b\n", "found 2 columns called 'text', expected one"),
        ("a.csv", "1,It was a dark night\n2,b\n", "no column 'text', only 1, It was a dark night: .*names of the columns"),
        ("a.csv", 'id,text\n1,"a" b\n', r"line 2: a quote is misplaced .*--csv_quoting none"),
        ("a.csv", 'id,text\n1,a\n2,"a\n', r"line 3: a quote is opened and never closed"),
        ("a.csv", "id,text\n1,a\rb\n", "line 2: found a carriage return inside a line"),
        ("a.csv", "\n\n", "found no column 'text', only nothing"),
    ],
)  # fmt: skip
def test_broken_tables_are_refused_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, newline="")
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_settings_for_files_that_the_defaults_refuse(tmp_path):
    for name, content, options in (
        ("semicolon.csv", 'id;text\n1;a, b\n2;"c; d"\n', {"csv_delimiter": ";"}),
        ("tab.csv", "id\ttext\n1\ta, b\n2\tc; d\n", {"csv_delimiter": "tab"}),
        ("quoted.tsv", 'id\ttext\n1\t"a, b"\n2\t"c; d"\n', {"csv_quoting": "minimal"}),
        ("empty.csv", 'id,text\n1,"a, b",\n2,c; d,,\n', {}),  # extra empty cells, as spreadsheets write them
    ):
        (tmp_path / name).write_text(content)
        assert read(tmp_path / name, **options) == ["a, b", "c; d"]
    (tmp_path / "a.tsv").write_text('id\ttext\r\n1\t"He left," she said.\r\n\r\n2\t"Stop!"\r\n')
    assert read(tmp_path / "a.tsv") == ['"He left," she said.', '"Stop!"']


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"csv_delimiter": ";;"}, "found --csv_delimiter ';;', expected one character"),
        ({"csv_delimiter": ""}, "found --csv_delimiter '', expected one character"),
        ({"csv_quoting": "all"}, "found --csv_quoting all, expected one of auto, minimal, none"),
        ({"text_encoding": "utf-9"}, "found --text_encoding utf-9, expected the name of an encoding"),
        ({"text_encoding": "base64"}, "found --text_encoding base64, expected"),
        ({"text_encoding": ""}, "found --text_encoding , expected"),
    ],
)
def test_settings_are_checked_before_anything_is_read(flags, message):
    with pytest.raises(UserError, match=message):
        DataArguments(**flags)


def test_the_description_contains_only_settings_that_were_given(tmp_path):
    path = table(tmp_path / "a.csv", enumerate(TEXTS))
    plain = open_corpus(str(path)).train.description
    assert not {"csv_quoting", "csv_delimiter", "text_encoding"} & set(plain)
    assert plain["reading"] == {".csv": 2}  # tokens prepared with an older reader are not reused
    assert open_corpus(str(path), csv_quoting="none").train.description == plain | {"csv_quoting": "none"}
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n')
    assert set(open_corpus(str(tmp_path / "b.jsonl")).train.description) == {"files", "text_column", "line_by_line"}


def test_settings_without_effect_are_reported(tmp_path):
    given = {"text_column": "body", "line_by_line": True, "keep_linebreaks": False, "text_encoding": "cp1252",
             "csv_delimiter": ";", "csv_quoting": "none"}  # fmt: skip
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.csv").write_text("text\na\n")
    for name, ignored in (
        ("a.txt", {"text_column", "csv_delimiter", "csv_quoting"}),
        ("a.jsonl", {"line_by_line", "keep_linebreaks", "csv_delimiter", "csv_quoting"}),
        ("a.csv", {"line_by_line", "keep_linebreaks"}),
    ):
        about = open_corpus(str(tmp_path / name), **given).about[3:]
        assert {line.split()[1].removeprefix("--") for line in about} == ignored
        assert all(line.startswith("warning: --") and "has no effect: there is no " in line for line in about)
        assert len(open_corpus(str(tmp_path / name)).about) == 3
    assert len(open_corpus("docstrings", **given).about) == 6
