"""Fertility on texts with known counts, and the limit for unknown tokens."""

import json
from itertools import pairwise

import pytest
from rich.console import Console

import recipe.data.fertility
import run_clm
import train_tokenizer as script
from recipe.data.arguments import DataArguments
from recipe.data.corpus import open_corpus
from recipe.data.fertility import (
    Fertility,
    fertility,
    fertility_table,
    require_few_unknown,
    spread_sample,
    unknown_id_of,
)
from recipe.data.inputs import load_or_prepare_tokens
from recipe.data.preparation import prepare_tokens
from recipe.data.tokenizer import save_tokenizer, train_tokenizer
from recipe.system.errors import UserError

CHINESE = "語言模型可以閱讀文字。" * 20


@pytest.fixture(scope="module")
def words():
    """A WordPiece tokenizer that knows three words and their letters."""
    text = ["cat dog bird"] * 50
    return train_tokenizer(lambda: text, kind="wordpiece", vocab_size=60, min_frequency=1)


@pytest.fixture(scope="module")
def letters():
    """A byte-level BPE with hardly any merges."""
    return train_tokenizer(lambda: ["x"], kind="bpe", vocab_size=262, min_frequency=2)


def test_counts_are_those_found_by_hand(words, letters):
    assert fertility(words, ["cat dog", "bird cat"]) == Fertility(words=4, letters=13, tokens=4, unknown=0, bytes=15)
    assert fertility(words, ["cat 語語 dog</s>"]) == Fertility(words=3, letters=12, tokens=8, unknown=6, bytes=18)
    assert fertility(letters, ["cat é"]) == Fertility(words=2, letters=4, tokens=6, unknown=0, bytes=6)
    assert fertility(words, []) == Fertility(0, 0, 0, 0, 0)


def test_long_texts_are_cut_and_bounded(letters, monkeypatch):
    monkeypatch.setattr(recipe.data.fertility, "MAX_CHARACTERS", 1_000)
    monkeypatch.setattr("recipe.data.tokenizer.PIECE_CHARACTERS", 10)
    monkeypatch.setattr(recipe.data.fertility, "BATCH_PIECES", 7)
    read = []

    def texts():
        while True:
            read.append(1)
            yield "cat dog " * 50

    assert (
        fertility(letters, texts()) == Fertility(words=250, letters=750, tokens=1_000, unknown=0, bytes=1_000)
        and len(read) == 3
    )


def test_the_table_has_one_row_per_tokenizer(words, letters):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(
            fertility_table({"ours": words, "[theirs]": letters}, lambda: ["cat bird", "dog 語"], "held-out text")
        )
    ours, theirs = (line.split() for line in capture.get().splitlines() if "ours" in line or "theirs" in line)
    assert ours[0] == "ours" and ours[2:] == ["1.000", "3.75", "25.000%"]
    assert theirs == ["[theirs]", "261", "3.750", "1.00", "0.000%"]


def test_fertility_is_per_word_or_per_letter_in_text_without_spaces(words, letters):
    assert str(fertility(words, ["cat dog", "bird cat"])) == "1.00 tokens per word, 0.00% unknown"
    assert str(fertility(letters, [CHINESE])) == "3.00 tokens per letter, 0.00% unknown"
    assert str(fertility(words, ["cat 語"])) == "1.00 tokens per word, 50.00% unknown"
    assert str(fertility(words, [])) == "0.00 tokens per word, 0.00% unknown"


def test_unknown_tokens_by_kind_of_tokenizer(words, letters, documents):
    assert unknown_id_of(words) == words.unk_token_id
    assert unknown_id_of(letters) is None  # bytes cover every text, although there is an <unk>
    unigram = train_tokenizer(lambda: documents, kind="unigram", vocab_size=100)
    assert fertility(unigram, ["the cat 語"]).unknown == 1


def test_a_sample_is_evenly_spread_and_bounded(monkeypatch):
    monkeypatch.setattr(recipe.data.fertility, "SAMPLE_CHARACTERS", 1000)
    monkeypatch.setattr(recipe.data.fertility, "SAMPLE_DOCUMENT", 50)
    monkeypatch.setattr(recipe.data.fertility, "SAMPLE_READ", 100_000)
    texts = [f"{n:04d} " * 20 for n in range(3000)]
    read = []
    sample = spread_sample(read.append(text) or text for text in texts)
    numbers = [int(text.split()[1]) for text in sample]
    assert 500 < sum(map(len, sample)) <= 1000 and len(read) == 1002
    assert numbers[0] == 0 and numbers[-1] > 900 and len({b - a for a, b in pairwise(numbers)}) == 1
    assert spread_sample([]) == []
    assert spread_sample([CHINESE]) == [CHINESE[85:135]]


def test_a_tokenizer_that_does_not_know_the_text_is_refused_before_tokenising(run, words, tmp_path):
    save_tokenizer(words, tmp_path / "words")
    (tmp_path / "chinese.txt").write_text("\n\n".join(["cat dog bird " * 12, CHINESE] * 50))
    text = ("--train_file", str(tmp_path / "chinese.txt"), "--tokenizer_name", str(tmp_path / "words"))
    for program in ({"family": "bert"}, {"program": run_clm, "family": "bert"}):
        with pytest.raises(
            UserError, match=r"8\d\.\d% of the tokens in a sample of chinese.txt are \[UNK\].*TOKENIZER=train"
        ):
            run(*text, **program)
    assert not (tmp_path / "run").exists() and not list((tmp_path / "data").glob("*/"))


def test_unknown_tokens_in_existing_prepared_tokens_are_counted(words, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.txt").write_text("\n\n".join(["cat dog bird " * 3 + "語", "cat dog"] * 100))
    corpus = open_corpus(str(tmp_path / "text.txt"))
    data = DataArguments(prepared_dir=str(tmp_path / "data"))
    # 200 documents, in which 1 token of 14 is unknown.
    prepared = prepare_tokens(corpus, words, tmp_path / "data")
    with pytest.raises(UserError, match=r"\d\.\d% of the training tokens of .* are \[UNK\], unknown to the tokenizer"):
        load_or_prepare_tokens(data, corpus, words)
    with pytest.raises(UserError, match="of the training tokens"):
        load_or_prepare_tokens(data, open_corpus(str(prepared.folder)), words)
    monkeypatch.setattr(recipe.data.fertility, "MAX_UNKNOWN", 0.1)
    load_or_prepare_tokens(data, corpus, words)
    assert capsys.readouterr().out == ""  # existing tokens aren't sampled again


def test_at_most_five_percent_may_be_unknown(words):
    require_few_unknown(0.05, words, "ours", "all tokens")
    with pytest.raises(
        UserError, match=r"5.1% of all tokens are .UNK., unknown to the tokenizer ours: expected at most 5%"
    ):
        require_few_unknown(0.051, words, "ours", "all tokens")


def test_a_trained_tokenizer_that_does_not_know_the_validation_text_is_not_saved(tmp_path, monkeypatch):
    rows = [{"text": text} for text in ["cat dog bird " * 20] * 50]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "valid.txt").write_text(CHINESE)
    flags = (
        "--train_file",
        "train.jsonl",
        "--validation_file",
        "valid.txt",
        "--output_dir",
        "new",
        "--model",
        "wordpiece",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_tokenizer.py", *flags, "--vocab_size", "60"])
    with pytest.raises(UserError, match=r"100.0% of the tokens in a sample of the validation text are \[UNK\]"):
        script.main()
    assert not (tmp_path / "new").exists()
