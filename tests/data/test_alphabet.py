"""Trained tokenizers know their text's letters: other scripts, words of any length, emoji; small vocabularies."""

from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

import recipe.data.alphabet
from recipe.data.alphabet import choose_alphabet, cut_endless_words
from recipe.data.fertility import fertility
from recipe.data.tokenizer import fingerprint, pieces, save_tokenizer, train_tokenizer
from recipe.system.errors import UserError

CODE = "def f(x: int) -> list[str]:\n\treturn [f'{x!r}' for _ in range(x) if x % 2 == 0]  # naïve → λ\n"


def drawn(letters: str, count: int, zipf: bool = False, seed: int = 0) -> str:
    generator = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(letters) + 1) if zipf else np.ones(len(letters))
    return "".join(generator.choice(list(letters), count, p=weights / weights.sum()))


def characters(first: int, count: int) -> str:
    return "".join(map(chr, range(first, first + count)))


TEXTS = {
    "chinese": [f"{drawn(characters(0x4E00, 4000), 40, zipf=True, seed=n)}。" for n in range(400)],
    "japanese": [drawn(characters(0x3041, 80) + characters(0x4E00, 900), 60, seed=n) for n in range(100)],
    "korean": [
        " ".join(drawn(characters(0xAC00, 1500), 60, True, n)[i : i + 3] for i in range(0, 60, 3)) for n in range(150)
    ],
    "thai": [drawn(characters(0x0E01, 46), 300, seed=n) for n in range(20)],
    "dna": [drawn("ACGT", 100_000)],
    "protein": [drawn("ACDEFGHIKLMNPQRSTVWY", 400, seed=n) for n in range(40)],
    "emoji": [" ".join(drawn(characters(0x1F300, 700), 50, seed=n)) for n in range(60)],
    "code": [CODE * 20],
}


@pytest.mark.parametrize("text", list(TEXTS))
def test_wordpiece_knows_the_text_it_was_trained_on(text):
    tokenizer = train_tokenizer(
        lambda: TEXTS[text], kind="wordpiece", vocab_size=500 if text in ("dna", "protein") else 5000
    )
    found = fertility(tokenizer, TEXTS[text])
    assert found.unknown <= 0.002 * found.tokens
    assert len(tokenizer) <= 5000 and (text == "code" or found.tokens > 0.1 * found.letters)


@pytest.mark.parametrize("text", ["chinese", "protein", "code"])
def test_unigram_knows_the_text_it_was_trained_on(text):
    texts = TEXTS[text][:100] if text == "chinese" else TEXTS[text][:5]
    size = len(set("".join(texts))) - 20 if text == "chinese" else 200  # too small for the rarest letters
    tokenizer = train_tokenizer(lambda: texts, kind="unigram", vocab_size=size)
    found = fertility(tokenizer, texts)
    assert found.unknown <= 0.03 * found.tokens and len(tokenizer) <= size


def test_a_saved_tokenizer_still_splits_long_words(tmp_path):
    texts = [drawn("ACGT", 5000)]
    trained = train_tokenizer(lambda: texts, kind="wordpiece", vocab_size=300)
    save_tokenizer(trained, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # as beside a checkpoint
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert fingerprint(loaded) == fingerprint(trained)
    encoded = loaded(texts[0], "ACGT")
    assert (
        encoded["input_ids"] == trained(texts[0], "ACGT")["input_ids"]
        and loaded.unk_token_id not in encoded["input_ids"]
    )
    assert set(encoded["token_type_ids"]) == {0, 1} and loaded.mask_token == "[MASK]"
    # One long word among many ordinary ones doesn't change the tokenizer's class.
    mostly = ["the cat sat on a mat " * 8000 + "A" * 150]
    assert type(train_tokenizer(lambda: mostly, kind="wordpiece", vocab_size=60)).__name__ == "BertTokenizer"


def test_only_endless_words_are_cut_for_training(monkeypatch):
    monkeypatch.setattr(recipe.data.alphabet, "RUN_LETTERS", 200)
    monkeypatch.setattr(recipe.data.alphabet, "_LONG_RUN", recipe.data.alphabet.re.compile(r"\w{201,}"))
    texts = ["the cat " * 100, "語" * 200, f"a {'x' * 250}, {'y' * 199} b", "é" * 450]
    cut = list(cut_endless_words(texts))
    assert "".join(cut) == "".join(texts) and texts[:2] == cut[:2]
    assert [len(part) for part in cut[2:]] == [102, 100, 253, 100, 100, 100, 100, 50]


def test_the_amount_of_endless_words_is_bounded(monkeypatch):
    monkeypatch.setattr(recipe.data.alphabet, "MAX_RUN_LETTERS", 1000)
    assert len(list(cut_endless_words("A" * 300 for _ in range(100)))) == 4
    assert len(list(cut_endless_words("the cat " * 100 for _ in range(100)))) == 100


def test_the_alphabet_covers_the_text_and_fits_the_vocabulary():
    letters = Counter({chr(0x4E00 + n): 1000 - n for n in range(900)} | {" ": 10**6, "é": 1})
    # Every letter, although COVERED would be reached without é.
    assert len(choose_alphabet(letters, lambda _: 2, "wordpiece", 5000, 5)) == 901
    assert len(choose_alphabet(letters, lambda _: 2, "wordpiece", 1750, 5)) == 872
    with pytest.raises(
        UserError, match=r"found VOCAB_SIZE 1000, expected at least (\d+): a wordpiece vocabulary"
    ) as error:
        choose_alphabet(letters, lambda _: 2, "wordpiece", 1000, 5)
    smallest = int(str(error.value).split("at least ")[1].split(":")[0])
    assert choose_alphabet(letters, lambda _: 2, "wordpiece", smallest, 5)
    with pytest.raises(UserError, match=f"at least {smallest}"):
        choose_alphabet(letters, lambda _: 2, "wordpiece", smallest - 1, 5)
    many = Counter({chr(0x4E00 + n): 100 for n in range(5000)})
    assert len(choose_alphabet(many, lambda _: 1, "wordpiece", 8192, 5)) == 5000


def test_a_vocabulary_too_small_for_the_letters_is_refused():
    for kind in ("wordpiece", "unigram"):
        with pytest.raises(UserError, match=f"a {kind} vocabulary has . special tokens and the .* most frequent"):
            train_tokenizer(lambda: TEXTS["chinese"], kind=kind, vocab_size=300)


@pytest.mark.parametrize("size", [-3, 0, 5, 2_097_153, 1_000_000_000])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_invalid_sizes_are_refused_before_any_text_is_read(kind, size):
    def texts():
        raise AssertionError("text was read")

    with pytest.raises(UserError, match=f"found VOCAB_SIZE {size}, expected"):
        train_tokenizer(texts, kind=kind, vocab_size=size)


def test_words_cut_for_training_are_not_cut_for_encoding():
    assert list(pieces("A" * 100_000)) == ["A" * 100_000]
