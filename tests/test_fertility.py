"""Fertility on texts whose counts are known by hand."""

import pytest
from rich.console import Console

import recipe.fertility
from recipe.fertility import Fertility, fertility, table_of
from recipe.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def words():
    """A WordPiece that knows three words and their letters, and a byte-level BPE that knows nothing but bytes."""
    text = ["cat dog bird"] * 50
    return train_tokenizer(lambda: text, kind="wordpiece", vocab_size=60, min_frequency=1)


@pytest.fixture(scope="module")
def letters():
    return train_tokenizer(lambda: ["x"], kind="bpe", vocab_size=262, min_frequency=2)


def test_counts_by_hand(words, letters):
    assert fertility(words, ["cat dog", "bird cat"]) == Fertility(words=4, tokens=4, unknown=0, bytes=15)
    assert fertility(words, ["cat 語語 dog</s>"]) == Fertility(words=3, tokens=8, unknown=6, bytes=18)
    assert fertility(letters, ["cat é"]) == Fertility(words=2, tokens=6, unknown=0, bytes=6)
    assert fertility(words, []) == Fertility(0, 0, 0, 0)


def test_long_texts_are_cut_and_bounded(letters, monkeypatch):
    monkeypatch.setattr(recipe.fertility, "MAX_CHARACTERS", 1_000)
    monkeypatch.setattr("recipe.tokenizer.PIECE_CHARACTERS", 10)
    monkeypatch.setattr(recipe.fertility, "BATCH_PIECES", 7)
    read = []

    def texts():
        while True:
            read.append(1)
            yield "cat dog " * 50

    assert fertility(letters, texts()) == Fertility(words=250, tokens=1_000, unknown=0, bytes=1_000) and len(read) == 3


def test_a_row_for_each_tokenizer(words, letters):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table_of({"ours": words, "[theirs]": letters}, lambda: ["cat bird", "dog 語"], "held-out text"))
    ours, theirs = (line.split() for line in capture.get().splitlines() if "ours" in line or "theirs" in line)
    assert ours[0] == "ours" and ours[2:] == ["1.000", "3.75", "25.000%"]
    assert theirs == ["[theirs]", "261", "3.750", "1.00", "0.000%"]
