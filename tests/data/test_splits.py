"""Which files of a folder are text and for which split, what is passed over, and that it is said."""

import pytest

import prepare_data
import train_tokenizer
from recipe.data.corpus import open_corpus
from recipe.data.splits import find_splits, split_of
from recipe.system.errors import UserError


def make(folder, *names, content="some text of this file\n"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def names(folder, files):
    return [str(file.relative_to(folder)) for file in files]


def test_the_words_of_a_split_count_only_where_a_separator_or_the_end_follows():
    for name in ("train.txt", "train-00000-of-2.parquet", "train_1.txt", "TRAIN.csv", "train2.txt", "train"):
        assert split_of(name) == "train", name
    for name in (
        "valid.txt",
        "validation_1.txt",
        "dev.tsv",
        "dev-matched",
        "eval.txt",
        "val.txt",
        "valid0.txt",
        "valid.en",
    ):
        assert split_of(name) == "validation", name
    for name in ("test.txt", "test-00000-of-1.parquet", "test_matched", "test2.jsonl"):
        assert split_of(name) == "test", name
    for name in ("training_of_apostles.txt", "devotions.txt", "validity.txt", "testament.txt", "evaluation.txt",
                 "trains.txt", "value.txt", "genesis.txt", "latest.txt", "Development.txt", "trainé.txt"):  # fmt: skip
        assert split_of(name) is None, name


def test_titles_that_begin_like_splits_are_training_text(tmp_path):
    books = ("genesis.txt", "exodus.txt", "training_of_apostles.txt", "devotions.txt", "validity.txt", "testament.txt")
    splits = find_splits(str(make(tmp_path, *books)))
    assert names(tmp_path, splits.train) == sorted(books) and not splits.validation
    assert splits.lines() == [
        "for training: 6 files, 138 bytes (.txt)",
        "for validation: documents drawn from those for training",
        "passed over: nothing",
    ]


def test_folders_called_after_splits_are_splits(tmp_path):
    make(tmp_path, "train/a.txt", "train/b.md", "valid/a.txt", "valid/test.md", "test/a.txt", "docs/c.txt", "train.txt")
    splits = find_splits(str(tmp_path))
    assert names(tmp_path, splits.train) == ["train/a.txt", "train/b.md", "train.txt"]
    assert names(tmp_path, splits.validation) == ["valid/a.txt", "valid/test.md"]
    assert splits.passed_over == {"of a test split": 1, ".txt not named train, as others are": 1}
    assert len(find_splits(str(tmp_path), keep_all=True).train) == 7
    assert names(tmp_path, find_splits(f"{tmp_path}/*/*.txt").validation) == ["valid/a.txt"]


def test_programs_are_training_text_whatever_they_are_called(tmp_path):
    files = (
        "train.py",
        "test_train.py",
        "src/eval.py",
        "dev/test.py",
        "test/a.py",
        "LICENSE.txt",
        "notes.txt",
        "x/y.md",
    )
    splits = find_splits(str(make(tmp_path, *files)))
    assert sorted(names(tmp_path, splits.train)) == sorted(files)
    assert splits.lines()[0] == "for training: 8 files, 184 bytes (5 .py 115 bytes, 2 .txt 46 bytes, 1 .md 23 bytes)"


def test_what_lies_beside_text_is_counted_and_does_not_stop_a_folder(tmp_path):
    make(
        tmp_path,
        "a.txt",
        "b.TXT",
        "c.txt.gz",
        ".hidden.txt",
        "._a.txt",
        "__MACOSX/a.txt",
        ".git/x.txt",
        "i.png",
        "j.png",
        "Makefile",
    )
    make(tmp_path, "empty.txt", "empty.jsonl", content="")
    splits = find_splits(str(tmp_path))
    assert names(tmp_path, splits.train) == ["a.txt", "b.TXT", "c.txt.gz"]
    assert splits.lines()[2] == "passed over: 4 hidden, 2 empty, 2 .png, 1 without an ending"
    assert find_splits(f"{tmp_path}/*").passed_over["empty"] == 2
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        open_corpus(str(tmp_path / "empty.txt"))
    make(tmp_path / "many", *(f"a.x{number:02}" for number in range(12)), "a.txt")
    assert find_splits(str(tmp_path / "many")).lines()[2].endswith("1 .x07, 4 of 4 other endings")


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        (("a.txt", "b.jsonl"), "", r"found no text at .* \(2 empty\): expected"),
        (("a.pdf", "b.pdf", ".c.txt"), "x", r"found no text at .* \(1 hidden, 2 \.pdf\)"),
        (("valid.txt", "test.txt"), "x", "found only validation or test files"),
    ],
)
def test_folders_without_training_text(tmp_path, files, content, message):
    with pytest.raises(UserError, match=message) as error:
        find_splits(str(make(tmp_path, *files, content=content)))
    assert "\n" not in str(error.value)


def test_what_describes_records_is_not_text(tmp_path):
    make(tmp_path, "README.md", "load.py")
    make(tmp_path, "a.jsonl", content='{"text": "one"}\n')
    corpus = open_corpus(str(tmp_path))
    assert list(corpus.train.documents()) == ["one"]
    assert corpus.about[2] == "passed over: 2 of code beside files of records (1 .md, 1 .py)"


def test_what_lies_in_a_source_tree_beside_the_code_is_not_text(tmp_path):
    make(tmp_path, "setup.py", "src/a.py", "src/b.py", "docs/index.rst", "LICENSE.txt")
    make(tmp_path, "package.json", content='{\n  "name": "x"\n}\n')
    make(tmp_path, "data/iris.csv", content="150,4,setosa\n")
    corpus = open_corpus(str(tmp_path))
    assert len(list(corpus.train.documents())) == 5
    assert corpus.about[2] == "passed over: 2 of records beside source code (1 .csv, 1 .json)"


def test_every_program_says_what_it_takes_before_it_reads(tmp_path, documents, monkeypatch, capsys):
    folder = make(tmp_path / "code", *(f"{number}.py" for number in range(40)), content="def f():\n    return 1\n")
    make(folder, "a.txt", "b.txt", "._b.txt", "logo.svg", content="\n\n".join(documents))
    for program, flags in (
        (train_tokenizer, ("--output_dir", tmp_path / "tokenizer", "--vocab_size", 300, "--held_out", 0)),
        (prepare_data, ("--tokenizer_name", tmp_path / "tokenizer", "--prepared_dir", tmp_path / "data")),
    ):
        monkeypatch.setattr("sys.argv", list(map(str, (f"{program.__name__}.py", "--dataset_name", folder, *flags))))
        program.main()
        first = capsys.readouterr().out.splitlines()
        assert first[0].startswith("for training: 42 files, ") and "(40 .py 880 bytes, 2 .txt " in first[0]
        assert first[1:3] == [
            "for validation: documents drawn from those for training",
            "passed over: 1 hidden, 1 .svg",
        ]
    assert f"{40 + 2 * len(documents)} documents" not in first  # both splits together
    counts = [int(line.split()[3].replace(",", "")) for line in first if line.endswith("documents")]
    assert sum(counts) == 40 + 2 * len(documents)
    monkeypatch.setenv("RANK", "1")
    prepare_data.main()
    assert "for training" not in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["dataset", "train_file", "validation_file"])
def test_an_empty_name_is_not_the_current_folder(flag):
    given = {"dataset": "docstrings"} if flag == "validation_file" else {}
    with pytest.raises(UserError, match="found an empty --"):
        open_corpus(**{**given, flag: ""})


def test_validation_text_of_its_own_replaces_that_of_the_folder(tmp_path):
    make(tmp_path / "corpus", "train.txt", "valid.txt", "b.txt")
    make(tmp_path, "held.txt")
    corpus = open_corpus(str(tmp_path / "corpus"), validation_file=str(tmp_path / "held.txt"))
    assert [name for name, *_ in corpus.validation.description["files"]] == [str(tmp_path / "held.txt")]
    assert corpus.about[1:] == (
        "for validation: 1 file, 23 bytes (.txt)",
        "passed over: 1 .txt not named train, as others are, 1 of a validation split, --validation_file in its place",
    )


def test_the_flags_reach_the_reader(tmp_path, documents, monkeypatch, capsys, bpe):
    """A semicolon-separated file of Windows with quotes that close nothing, by prepare_data.py's command line."""
    rows = [f'{number};"café {text.replace(";", "")}' for number, text in enumerate(documents)]
    path = tmp_path / "export.csv"
    path.write_bytes("\r\n".join(["id;body", *rows]).encode("cp1252"))
    bpe.save_pretrained(tmp_path / "tokenizer")
    flags = {
        "--text_column": "body",
        "--csv_delimiter": ";",
        "--csv_quoting": "none",
        "--text_encoding": "windows-1252",
    }
    command = ["prepare_data.py", "--train_file", path, "--prepared_dir", tmp_path / "data"]
    command += ["--tokenizer_name", tmp_path / "tokenizer"]
    for left_out in (None, *flags):
        given = [part for flag, value in flags.items() if flag != left_out for part in (flag, value)]
        monkeypatch.setattr("sys.argv", list(map(str, [*command, *given])))
        if left_out:
            with pytest.raises(UserError, match=rf"pass {left_out}"):
                prepare_data.main()
        else:
            prepare_data.main()
            counts = [
                int(line.split()[3]) for line in capsys.readouterr().out.splitlines() if line.endswith("documents")
            ]
            assert sum(counts) == len(documents)
