"""The text that a tokenizer learns from, and which of its letters and how long words the vocabulary must know."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from recipe.system.errors import UserError

ALPHABET = 1000  # letters that are taken however rare they are
COVERED = 0.9999  # of the letters of a text; more letters than ALPHABET are taken until so much of it is known
NEEDED = 0.99  # of the letters: with words of five, one word in twenty is unknown then
WORD_LETTERS = 100  # WordPiece makes a longer word [UNK], and its search takes the square of a word's length
LONG_SHARE = 0.001  # of a text's letters in words of more than WORD_LETTERS, from which on these words are cut
# A run without white space is one word to BPE if it is of letters alone (DNA). Learning from words of 100,000 letters
# takes 60 times as long as from words of 100 (20 s for 100,000 letters), and all such words differ: 115 bytes a letter.
RUN_LETTERS = 1000
MAX_RUN_LETTERS = 20_000_000  # in runs of more than WORD_LETTERS characters: 2.3 GB
_LETTERS = re.compile(rf"\w{{{RUN_LETTERS + 1},}}")


def learnable(texts: Iterable[str]) -> Iterator[str]:
    """`texts` with runs of more than RUN_LETTERS letters cut into words of WORD_LETTERS, until MAX_RUN_LETTERS
    characters came in runs without white space of more than WORD_LETTERS."""
    unspaced = 0
    for text in texts:
        if unspaced > MAX_RUN_LETTERS:
            return
        runs = [len(run) for run in text.split() if len(run) > WORD_LETTERS]
        unspaced += sum(runs)
        if runs and max(runs) > RUN_LETTERS:
            yield from _without_long_words(text)
        else:
            yield text


def _without_long_words(text: str) -> Iterator[str]:
    begin = 0
    for run in _LETTERS.finditer(text):
        for cut in range(run.start() + WORD_LETTERS, run.end(), WORD_LETTERS):
            yield text[begin:cut]
            begin = cut
    yield text[begin:]


def survey(
    texts: Iterable[str], normalizer: normalizers.Normalizer, words: pre_tokenizers.PreTokenizer
) -> tuple[Counter[str], bool]:
    """(how often each character occurs in the normalised texts, whether at least LONG_SHARE of their letters lie in
    words of WORD_LETTERS or more, `learnable` having cut the endless ones to so many)."""
    letters: Counter[str] = Counter()
    long = 0
    for text in texts:
        normalised = normalizer.normalize_str(text)
        letters.update(normalised)
        for run in normalised.split():
            if len(run) >= WORD_LETTERS:
                lengths = (end - start for _, (start, end) in words.pre_tokenize_str(run))
                long += sum(length for length in lengths if length >= WORD_LETTERS)
    return letters, long > LONG_SHARE * letters.total()


def alphabet(
    letters: Counter[str], tokens: Callable[[str], int], kind: str, vocab_size: int, specials: int
) -> list[str]:
    """The most frequent letters, white space aside: ALPHABET of them, more where they are not COVERED of the text, and
    fewer where a vocabulary of `vocab_size` tokens has no room for them beside its `specials`; a letter takes
    `tokens(letter)`.

    Raises UserError, with the smallest size that works, where there is no room for NEEDED of the text.
    """
    ranked = [letter for letter, _ in letters.most_common() if not letter.isspace()]
    if not ranked:
        return []
    always = sum(not letter.isspace() for letter, _ in letters.most_common(ALPHABET))
    shares = np.cumsum([letters[letter] for letter in ranked]) / sum(letters[letter] for letter in ranked)
    sizes = specials + np.cumsum([tokens(letter) for letter in ranked])
    needed, covered = (min(int(np.searchsorted(shares, share)), len(ranked) - 1) for share in (NEEDED, COVERED))
    if sizes[needed] >= vocab_size:
        raise UserError(
            f"found VOCAB_SIZE {vocab_size}, expected at least {sizes[needed] + 1}: a {kind} vocabulary has "
            f"{specials} special tokens and the {needed + 1:,} most frequent of the text's {len(ranked):,} letters; "
            "or train a byte-level BPE (train_tokenizer.py --model bpe), which has bytes in place of letters"
        )
    return ranked[: min(max(always, covered + 1), int(np.searchsorted(sizes, vocab_size)))]


def stands_alone(letter: str, normalizer: normalizers.Normalizer, words: pre_tokenizers.PreTokenizer) -> bool:
    """Whether a letter is a word of its own wherever it stands, as punctuation and Chinese characters are to BERT."""
    return len(words.pre_tokenize_str(normalizer.normalize_str(f"a{letter}a"))) == 3
