"""recipe.finetune.glue.own_rows and recipe.finetune.glue.labels: files of one's own, which columns are text, and what their labels are."""

import gzip
import json

import pandas as pd
import pytest

from recipe.finetune.glue.labels import SavedLabels, output_order
from recipe.finetune.glue.own_rows import OwnOptions, read_files
from recipe.system.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Writes text or JSON rows as `name` and reads them as the training file, or as another `split`."""

    def call(content, name="t.csv", split="train", saved=None, **options):
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_files({split: str(file)}, OwnOptions(**options), saved)

    return call


def labelled(labels, texts=None):
    return [{"text": (texts or "abcdefgh")[n], "label": label} for n, label in enumerate(labels)]


def test_every_format(tmp_path):
    pd.DataFrame({"text": ["a", "b", "c"], "label": ["no", "yes", "no"]}).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "v.jsonl").write_text('{"text": "d", "label": "yes"}\n')
    rows = read_files({"train": str(tmp_path / "t.csv"), "validation": str(tmp_path / "v.jsonl")})
    assert rows.labels == ("no", "yes") and not rows.regression
    assert rows.splits["train"].labels == [0, 1, 0] and rows.splits["validation"].labels == [1]
    assert rows.notes == ("columns    text: text; label: label",)
    (tmp_path / "v.jsonl").write_text('{"text": "d", "label": "perhaps"}\n')
    with pytest.raises(UserError, match=r"v\.jsonl, line 1: found the label 'perhaps', expected one of no, yes"):
        read_files({"train": str(tmp_path / "t.csv"), "validation": str(tmp_path / "v.jsonl")})
    frame = pd.DataFrame({"sentence2": ["b", "c"], "sentence1": ["a", "a"], "label": [0.5, 1.0]})
    for name, layout in (
        ("r.json", {"orient": "records"}),
        ("c.json", {}),
        ("l.json", {"orient": "records", "lines": True}),
    ):
        frame.to_json(tmp_path / name, **layout)
        scores = read_files({"train": str(tmp_path / name)})
        assert scores.regression and scores.splits["train"].texts == (["a", "a"], ["b", "c"])
        assert scores.splits["train"].labels == [0.5, 1.0]
    (tmp_path / "d.json").write_text(json.dumps({"data": labelled([1, 0])}))
    assert read_files({"train": str(tmp_path / "d.json")}).splits["train"].labels == [1, 0]


# ---- rows and quotes


def test_a_stray_quote_never_swallows_rows(read):
    """Found: 25 of 60 rows, and a score on 25."""
    lines = [f"sentence {n} of these,{'yes' if n % 2 else 'no'}" for n in range(60)]
    stray = [f'"{line}' if n in (9, 44) else line for n, line in enumerate(lines)]
    table = "text,label\n" + "\n".join(stray) + "\n"
    with pytest.raises(UserError, match=r"t.csv, lines? 11"):
        read(table)
    closed = [f'"{line}' if n == 9 else line.replace(",", '",') if n == 12 else line for n, line in enumerate(lines)]
    with pytest.raises(
        UserError, match=r"t.csv, line 11: a quote opens .*: correct the quote, or pass --csv_quoting none"
    ):
        read("text,label\n" + "\n".join(closed) + "\n")
    plain = read(table, quoting="none")
    assert len(plain.splits["train"]) == 60 and plain.splits["train"].texts[0][9] == '"sentence 9 of these'
    tsv = read(table.replace(",", "\t"), "t.tsv")
    assert len(tsv.splits["train"]) == 60  # in a .tsv a quote is a letter


def test_quoted_fields_of_a_csv(read):
    rows = read('label,sentence1,sentence2\nb,"a, ""b""\nc",d\na,x,"y, z"\n').splits["train"]
    assert rows.texts == (['a, "b"\nc', "x"], ["d", "y, z"]) and rows.labels == [1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,text,label\n1,hello, world,0\n2,b,1\n", "line 2: found more fields"),
        ("text,label\na,1\nb\n", "line 3: found fewer fields"),
        ("text;label\na;1\nb;0\n", "text;label, expected one called 'label'"),
        ("text,text,label\na,b,1\n", "2 columns called 'text', expected one"),
        ("text,label\n", "has no rows"),
        ("", "has no rows"),
        ('text,label\n"a,1\nb,0\n', "never closed"),
    ],
)
def test_broken_tables_are_refused_with_the_line(read, table, message):
    with pytest.raises(UserError, match=message) as error:
        read(table)
    assert "\n" not in str(error.value)


def test_another_delimiter(read):
    assert read("text;label\na, b;1\nb;0\n", delimiter=";").splits["train"].texts[0] == ["a, b", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "row 0: found a int, expected an object"),
        ('{"text": "a", "label": 1}\n{"text": "b"', "line 2: not JSON"),
        ('[{"text": "a", "label": 1}, {"text": null, "label": 0}]', "row 1: found nothing in the column 'text'"),
        ('[{"text": "a", "label": 1}, {"label": 0}]', "row 1: found nothing in the column 'text'"),
        ('[{"text": ["a"], "label": 1}, {"text": "b", "label": 0}]', "row 0: found a list in the column 'text'"),
        ('{"text": {"0": "a", "1": "b"}, "label": {"0": 1}}', r"has columns of 2 \(text\), 1 \(label\) rows"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "has no rows"),
        ("3", "line 1: found a int"),
    ],
)
def test_json_that_holds_no_rows(read, content, message):
    with pytest.raises(UserError, match=message) as error:
        read(content, "t.json")
    assert "\n" not in str(error.value)


def test_lone_surrogates_are_replaced_and_counted(read):
    rows = read('[{"text": "cut \\ud83d end", "label": 1}, {"text": "ok \\ud83d\\ude00", "label": 0}]', "t.json")
    assert rows.splits["train"].texts[0] == ["cut \ufffd end", "ok \U0001f600"] and rows.splits["train"].replaced == 1


# ---- columns


def test_columns_are_named_or_plain_or_refused(read):
    table = "id,text,date,label\n1,hello,monday,0\n2,bye,friday,1\n"
    with pytest.raises(
        UserError, match=r"pass --text_columns text to classify that one, or --text_columns text,date to"
    ):
        read(table)
    assert read(table, text_columns=("text",)).splits["train"].texts == (["hello", "bye"],)
    pair = read(table, text_columns=("date", "text"))
    assert pair.splits["train"].texts == (["monday", "friday"], ["hello", "bye"])
    assert pair.notes[0] == "columns    text: date and text; label: label"
    other = read("text,stars\na,1\nb,2\n", label_column="stars")
    assert other.labels == ("1", "2") and other.splits["train"].texts == (["a", "b"],)
    with pytest.raises(UserError, match="expected one called 'label': pass --label_column NAME"):
        read("text,stars\na,1\nb,2\n", text_columns=("text",))
    with pytest.raises(UserError, match="expected one called 'words': pass --text_columns NAME"):
        read(table, text_columns=("words",))
    with pytest.raises(UserError, match="expected a text column beside 'label'"):
        read("id,label\n1,0\n2,1\n")
    assert read(",premise,hypothesis,note,label\n0,a,b,c,0\n1,a,b,c,1\n").splits["train"].texts[1] == ["b", "b"]


def test_a_test_file_keeps_its_numbers_and_needs_no_label(read):
    saved = SavedLabels("model", ("no", "yes"))
    test = read("id,text\n7,a\n9,b\n", split="test", saved=saved)
    assert (
        test.splits["test"].index == ("7", "9") and test.splits["test"].labels is None and test.labels == ("no", "yes")
    )
    unknown = read("text,label\na,\nb,perhaps\n", split="test", saved=saved)  # its labels are not looked at
    assert unknown.splits["test"].labels is None and unknown.splits["test"].index is None


# ---- labels


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([1, 0, 10, 2], ("0", "1", "2", "10"), [1, 0, 3, 2]),
        ([0.0, 1.0, 0.0], ("0", "1"), [0, 1, 0]),
        (["b", "a"], ("a", "b"), [1, 0]),
        (["1", "0"], ("0", "1"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([0.5, 1.0], (), [0.5, 1.0]),
        ([1, 2.5], (), [1.0, 2.5]),
    ],
)
def test_what_labels_are(read, labels, names, ids):
    rows = read(labelled(labels), "t.json")
    assert rows.labels == names and rows.splits["train"].labels == ids
    table = "text,label\n" + "".join(f"t,{label}\n" for label in labels)
    assert read(table).splits["train"].labels == ids  # in a csv, too


def test_whole_floats_are_classes_unless_told(read):
    rows = read(labelled([0.0, 1.0]), "t.json")
    assert any("--regression true makes them scores" in note for note in rows.notes)
    assert read(labelled([0.0, 1.0]), "t.json", regression=True).splits["train"].labels == [0.0, 1.0]
    assert read(labelled([1, 0]), "t.json", regression=True).regression
    assert read(labelled([0.5, 1.5, 0.5]), "t.json", regression=False).labels == ("0.5", "1.5")


NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None], "row 2: found no label as its label"),
        ([0, 1, NAN], "row 2: found the label nan"),
        ([0.5, float("inf")], "row 1: found the label inf"),
        (["a", "b", ""], "row 2: found an empty label"),
        (["a", "b", "  "], "row 2: found an empty label"),
        (
            [1, "1"],
            r"row 1: found the label '1', a text, and 1, a number, in row 0: write all labels as text or all as numbers",
        ),
        ([[0, 1], [1]], "row 0: found a list as its label, expected one name or number"),
        ([{"a": 1}], "row 0: found a dict as its label"),
        (["a", "a"], "every row has the label a: expected at least two"),
        (["a"] * 3 + [3], "'a', a text, and 3, a number"),
    ],
)
def test_labels_that_are_none(read, labels, message):
    with pytest.raises(UserError, match=message) as error:
        read(labelled(labels), "t.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "1", ""], "line 4: found an empty label"),
        (["0", "1", "nan"], "line 4: found the label 'nan', a text, and 0, a number, in line 2"),
        (["0", "1", "0.5x"], "write all labels as text or all as numbers"),
    ],
)
def test_labels_of_a_csv_that_are_none(read, labels, message):
    with pytest.raises(UserError, match=message):
        read("text,label\n" + "".join(f"t,{label}\n" for label in labels))


def test_numbers_that_tell_rows_apart_are_no_classes(read):
    rows = [{"text": "a", "label": n} for n in range(30)]
    with pytest.raises(UserError, match=r"30 different labels in 30 rows: pass --label_column .* or --regression true"):
        read(rows, "t.json")
    assert read(rows, "t.json", regression=True).regression


def test_a_regression_has_no_names(read):
    with pytest.raises(UserError, match="row 1: found the label 'high', expected a number"):
        read(labelled(["1", "high"]), "t.json", regression=True)


def test_without_training_the_labels_are_the_checkpoint_s(read):
    saved = SavedLabels("model", ("Yes", "no", "maybe"))
    rows = read(labelled(["no", "yes", "no"]), "t.json", split="validation", saved=saved)
    assert rows.labels == saved.names and rows.splits["validation"].labels == [1, 0, 1]
    with pytest.raises(UserError, match="row 0: found the label 'never', expected one of Yes, no, maybe"):
        read(labelled(["never"]), "t.json", split="validation", saved=saved)
    unnamed = SavedLabels("model", ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert read(labelled([2, 0]), "t.json", split="validation", saved=unnamed).splits["validation"].labels == [2, 0]
    three = read(labelled(["b", "c", "a"]), "t.json", split="validation", saved=unnamed)
    assert three.splits["validation"].labels == [1, 2, 0]
    with pytest.raises(UserError, match=r"model has the labels LABEL_0, LABEL_1, LABEL_2, the data b, c"):
        read(labelled(["b", "c"]), "t.json", split="validation", saved=unnamed)
    scores = SavedLabels("model", ())
    assert read(labelled([1, 2]), "t.json", split="validation", saved=scores).splits["validation"].labels == [1.0, 2.0]


# ---- a checkpoint's outputs


def test_outputs_are_matched_by_name():
    names = ("entailment", "neutral", "contradiction")
    assert output_order(SavedLabels("m", names), names, False) == (None, False, "")
    assert output_order(SavedLabels("m", ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")), names, False) == (
        [2, 1, 0],
        False,
        "",
    )
    order, fresh, note = output_order(SavedLabels("m", ("LABEL_0", "LABEL_1", "LABEL_2")), names, False)
    assert (order, fresh) == (None, False) and "matched by number to entailment, neutral, contradiction" in note
    assert output_order(None, names, False) == (None, True, "")
    assert output_order(SavedLabels("m", ()), (), False) == (None, False, "")
    for saved, wanted in (
        (names, ("a", "b", "c")),
        (names, ("entailment", "not_entailment")),
        ((), names),
        (names, ()),
    ):
        with pytest.raises(UserError, match=r"^m has .*, the data .*: expected the same"):
            output_order(SavedLabels("m", saved), wanted, False)
        assert output_order(SavedLabels("m", saved), wanted, True) == (None, True, "")


@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda content: content[:40] + b"\xff" * 40])
def test_a_damaged_compressed_file_is_one_line(tmp_path, damage):
    """Cut short, gzip raises EOFError; with other bytes in its middle, zlib.error."""
    rows = "text,label\n" + "".join(f"{n * n},{n % 2}\n" for n in range(300))
    (tmp_path / "t.csv.gz").write_bytes(damage(gzip.compress(rows.encode(), mtime=0)))
    with pytest.raises(UserError, match=r"cannot read .*t\.csv\.gz") as error:
        read_files({"train": str(tmp_path / "t.csv.gz")})
    assert "\n" not in str(error.value)
