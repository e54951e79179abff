"""Letters and long words in tokenizer training: the alphabet of a vocabulary, and endless words cut to bound memory."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from recipe.system.errors import UserError

ALPHABET = 1000  # letters that are included however rare they are
COVERED = 0.9999  # of a text's letters: beyond ALPHABET, letters are added until this share is covered
NEEDED = 0.99  # of a text's letters: at this coverage, one word of five letters in twenty is unknown
WORD_LETTERS = 100  # WordPiece replaces a longer word by [UNK], and is quadratic in a word's length
LONG_SHARE = 0.001  # of a text's letters in words of WORD_LETTERS or more: above it, WordPiece splits these words
# To BPE, a run of letters without white space (DNA) is one word. Learning from words of 100,000 letters takes 60 times
# as long as from words of 100 (20 s for 100,000 letters), and no such word occurs twice: 115 bytes per letter.
RUN_LETTERS = 1000
MAX_RUN_LETTERS = 20_000_000  # in runs of more than WORD_LETTERS characters: 2.3 GB
_LONG_RUN = re.compile(rf"\w{{{RUN_LETTERS + 1},}}")


def cut_endless_words(texts: Iterable[str]) -> Iterator[str]:
    """`texts`, with runs of more than RUN_LETTERS letters cut every WORD_LETTERS letters. Ends early once
    MAX_RUN_LETTERS characters were in runs of more than WORD_LETTERS without white space."""
    unspaced = 0
    for text in texts:
        if unspaced > MAX_RUN_LETTERS:
            return
        runs = [len(run) for run in text.split() if len(run) > WORD_LETTERS]
        unspaced += sum(runs)
        if runs and max(runs) > RUN_LETTERS:
            yield from _cut_long_runs(text)
        else:
            yield text


def _cut_long_runs(text: str) -> Iterator[str]:
    begin = 0
    for run in _LONG_RUN.finditer(text):
        for cut in range(run.start() + WORD_LETTERS, run.end(), WORD_LETTERS):
            yield text[begin:cut]
            begin = cut
    yield text[begin:]


def count_letters(
    texts: Iterable[str], normalizer: normalizers.Normalizer, words: pre_tokenizers.PreTokenizer
) -> tuple[Counter[str], bool]:
    """(count of each character in the normalised texts, whether more than LONG_SHARE of the letters are in words of
    WORD_LETTERS or more, which includes endless words after `cut_endless_words`)."""
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


def choose_alphabet(
    letters: Counter[str], tokens: Callable[[str], int], kind: str, vocab_size: int, specials: int
) -> list[str]:
    """The most frequent letters of a text, without white space.

    They are ALPHABET letters; more if these don't cover COVERED of the text, fewer if they don't fit into a vocabulary
    of `vocab_size` tokens beside its `specials` special tokens. A letter takes `tokens(letter)` tokens. Raises
    UserError, with the smallest sufficient size, where the letters that cover NEEDED of the text don't fit.
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
            "or train a byte-level BPE (train_tokenizer.py --model bpe), which has bytes instead of letters"
        )
    return ranked[: min(max(always, covered + 1), int(np.searchsorted(sizes, vocab_size)))]


def is_own_word(letter: str, normalizer: normalizers.Normalizer, words: pre_tokenizers.PreTokenizer) -> bool:
    """Whether a letter is always a word of its own, as punctuation and Chinese characters are to BERT."""
    return len(words.pre_tokenize_str(normalizer.normalize_str(f"a{letter}a"))) == 3
