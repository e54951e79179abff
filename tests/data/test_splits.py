"""Train and validation splits of folders: which files belong to which, which are skipped, and that this is printed."""

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


def test_a_name_belongs_to_a_split_only_if_a_separator_or_nothing_follows_its_word():
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


def test_titles_that_begin_like_the_name_of_a_split_are_training_text(tmp_path):
    books = ("genesis.txt", "exodus.txt", "training_of_apostles.txt", "devotions.txt", "validity.txt", "testament.txt")
    splits = find_splits(str(make(tmp_path, *books)))
    assert names(tmp_path, splits.train) == sorted(books) and not splits.validation
    assert splits.lines() == [
        "for training: 6 files, 138 bytes (.txt)",
        "for validation: documents drawn from those for training",
        "skipped: nothing",
    ]


def test_folders_named_after_splits_are_splits(tmp_path):
    make(tmp_path, "train/a.txt", "train/b.md", "valid/a.txt", "valid/test.md", "test/a.txt", "docs/c.txt", "train.txt")
    splits = find_splits(str(tmp_path))
    assert names(tmp_path, splits.train) == ["train/a.txt", "train/b.md", "train.txt"]
    assert names(tmp_path, splits.validation) == ["valid/a.txt", "valid/test.md"]
    assert splits.skipped == {"of a test split": 1, ".txt not named train, as others are": 1}
    assert len(find_splits(str(tmp_path), keep_all=True).train) == 7
    assert names(tmp_path, find_splits(f"{tmp_path}/*/*.txt").validation) == ["valid/a.txt"]


def test_source_files_are_training_text_whatever_their_names(tmp_path):
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


def test_files_that_are_not_text_are_counted_and_skipped(tmp_path):
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
    assert splits.lines()[2] == "skipped: 4 hidden, 2 empty, 2 .png, 1 without a suffix"
    assert find_splits(f"{tmp_path}/*").skipped["empty"] == 2
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        open_corpus(str(tmp_path / "empty.txt"))
    make(tmp_path / "many", *(f"a.x{number:02}" for number in range(12)), "a.txt")
    assert find_splits(str(tmp_path / "many")).lines()[2].endswith("1 .x07, 4 of 4 other suffixes")


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        (("a.txt", "b.jsonl"), "", r"found no text at .* \(2 empty\): expected"),
        (("a.pdf", "b.pdf", ".c.txt"), "x", r"found no text at .* \(1 hidden, 2 \.pdf\)"),
        (("valid.txt", "test.txt"), "x", "found only validation or test files"),
    ],
)
def test_folders_without_training_text_are_refused(tmp_path, files, content, message):
    with pytest.raises(UserError, match=message) as error:
        find_splits(str(make(tmp_path, *files, content=content)))
    assert "\n" not in str(error.value)


def test_source_files_beside_record_files_are_skipped(tmp_path):
    make(tmp_path, "README.md", "load.py")
    make(tmp_path, "a.jsonl", content='{"text": "one"}\n')
    corpus = open_corpus(str(tmp_path))
    assert list(corpus.train.documents()) == ["one"]
    assert corpus.about[2] == "skipped: 2 source files beside record files (1 .md, 1 .py)"


def test_record_files_in_a_source_tree_are_skipped(tmp_path):
    make(tmp_path, "setup.py", "src/a.py", "src/b.py", "docs/index.rst", "LICENSE.txt")
    make(tmp_path, "package.json", content='{\n  "name": "x"\n}\n')
    make(tmp_path, "data/iris.csv", content="150,4,setosa\n")
    corpus = open_corpus(str(tmp_path))
    assert len(list(corpus.train.documents())) == 5
    assert corpus.about[2] == "skipped: 2 record files beside source code (1 .csv, 1 .json)"


def test_every_program_prints_the_splits_before_it_reads(tmp_path, documents, monkeypatch, capsys):
    folder = make(tmp_path / "code", *(f"{number}.py" for number in range(40)), content="def f():\n    return 1\n")
    make(folder, "a.txt", "b.txt", "._b.txt", "logo.svg", content="\n\n".join(documents))
    for program, flags in (
        (train_tokenizer, ("--output_dir", tmp_path / "tokenizer", "--vocab_size", 300, "--held_out", 0)),
        (prepare_data, ("--tokenizer_name", tmp_path / "tokenizer", "--prepared_dir", tmp_path / "data")),
    ):
        monkeypatch.setattr("sys.argv", list(map(str, (f"{program.__name__}.py", "--dataset_name", folder, *flags))))
        program.main()
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("for training: 42 files, ") and "(40 .py 880 bytes, 2 .txt " in lines[0]
        assert lines[1:3] == [
            "for validation: documents drawn from those for training",
            "skipped: 1 hidden, 1 .svg",
        ]
    counts = [int(line.split()[3].replace(",", "")) for line in lines if line.endswith("documents")]
    assert sum(counts) == 40 + 2 * len(documents)
    monkeypatch.setenv("RANK", "1")
    prepare_data.main()
    assert "for training" not in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["dataset", "train_file", "validation_file"])
def test_an_empty_name_is_not_the_current_folder(flag):
    given = {"dataset": "docstrings"} if flag == "validation_file" else {}
    with pytest.raises(UserError, match="found an empty --"):
        open_corpus(**{**given, flag: ""})


def test_a_validation_file_replaces_the_validation_split_of_the_folder(tmp_path):
    make(tmp_path / "corpus", "train.txt", "valid.txt", "b.txt")
    make(tmp_path, "held.txt")
    corpus = open_corpus(str(tmp_path / "corpus"), validation_file=str(tmp_path / "held.txt"))
    assert [name for name, *_ in corpus.validation.description["files"]] == [str(tmp_path / "held.txt")]
    assert corpus.about[1:] == (
        "for validation: 1 file, 23 bytes (.txt)",
        "skipped: 1 .txt not named train, as others are, 1 of a validation split, replaced by --validation_file",
    )


def test_the_flags_reach_the_reader(tmp_path, documents, monkeypatch, capsys, bpe):
    """prepare_data.py reads a semicolon-separated file from Windows with unclosed quotes, and needs each flag for it."""
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
