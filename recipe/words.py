"""Where words begin in a row of token ids, for byte-level BPE, SentencePiece-style and WordPiece vocabularies alike."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from recipe.errors import UserError

LETTER, DIGIT, OTHER = 0, 1, 2


@dataclass(frozen=True)
class WordBoundaries:
    """Tables over the vocabulary: a token begins a word if it `opens` one, or if its first character is of another
    class (letter, digit, other) than the last one of the token before it, as in GPT-2's pre-tokenizer."""

    opens: np.ndarray  # [vocab] bool
    first_class: np.ndarray  # [vocab] int8
    last_class: np.ndarray  # [vocab] int8

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """[batch, length] bool: whether a word begins at each token of `ids`."""
        starts = self.opens[ids]
        starts[:, 1:] |= self.first_class[ids[:, 1:]] != self.last_class[ids[:, :-1]]
        starts[:, 0] = True
        return starts

    def choose(
        self,
        ids: np.ndarray,
        ordinary: np.ndarray,
        keys: np.ndarray,
        quota: np.ndarray,
        spread: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Chooses whole words in the order of the key of their first token until `quota` [batch, 1] tokens are hidden.
        `spread`, if given, turns the keys of words [batch, words] into others (recipe.masked_spans).

        A word that no longer fits is passed over for later ones that do, so a word is hidden whole or not at all; a
        row is short of its quota only when no word is small enough. `ordinary` marks the tokens that may be hidden; a
        special token ends a word. Returns [batch, length] bool.
        """
        batch, length = ids.shape
        starts = self.starts(ids) | ~ordinary
        starts[:, 1:] |= ~ordinary[:, :-1]
        word = np.cumsum(starts, axis=1) - 1  # [batch, length]: the index of each token's word in its row
        sizes = np.zeros((batch, length), dtype=np.int64)
        np.add.at(sizes, (np.arange(batch)[:, None], word), ordinary)
        word_keys = np.full((batch, length), np.iinfo(np.uint32).max, dtype=np.uint32)
        rows, columns = np.nonzero(starts & ordinary)
        word_keys[rows, word[rows, columns]] = keys[rows, columns]
        if spread is not None:
            word_keys = spread(word_keys)

        order = np.argsort(word_keys, axis=1, kind="stable")
        sizes = np.take_along_axis(sizes, order, axis=1)
        taken = np.zeros((batch, length), dtype=bool)
        open_words = sizes > 0
        left = quota.astype(np.int64)
        while True:
            open_words &= sizes <= left
            fits = open_words & (np.cumsum(sizes * open_words, axis=1) <= left)
            if not fits.any():
                break
            taken |= fits
            open_words &= ~fits
            left = left - (sizes * fits).sum(axis=1, keepdims=True)
        hidden_words = np.zeros_like(taken)
        np.put_along_axis(hidden_words, order, taken, axis=1)
        return np.take_along_axis(hidden_words, word, axis=1) & ordinary


def word_boundaries(tokenizer: PreTrainedTokenizerFast) -> WordBoundaries:
    """Reads the boundaries off `tokenizer`'s vocabulary. Raises UserError for one whose tokens don't show them."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kind = _marking(tokens)
    if kind == "##":
        opens = np.array([not token.startswith("##") for token in tokens])
        flat = np.zeros(len(tokens), dtype=np.int8)
        return WordBoundaries(opens, flat, flat)
    if kind == "▁":
        opens = np.array([token.startswith("▁") for token in tokens])
        texts = [token.replace("▁", " ") for token in tokens]
    else:
        to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
        # A byte outside ASCII is part of a letter for this purpose; latin-1 keeps one character a byte.
        texts = [bytes(to_byte.get(c, ord("?")) for c in token).decode("latin-1") for token in tokens]
        opens = np.array([text[:1].isspace() for text in texts])
    first = np.array([_character_class(text.lstrip()[:1]) for text in texts], dtype=np.int8)
    last = np.array([_character_class(text[-1:]) for text in texts], dtype=np.int8)
    return WordBoundaries(opens, first, last)


def _marking(tokens: list[str]) -> str:
    marks = {mark: sum(token.startswith(mark) for token in tokens) for mark in ("Ġ", "##", "▁")}
    mark = max(marks, key=marks.get)
    if marks[mark] == 0:
        raise UserError(
            "--whole_word_mask needs a vocabulary that marks words with Ġ, ## or ▁, this tokenizer's has none of them: "
            "leave the flag out or use another tokenizer"
        )
    return mark


def _character_class(character: str) -> int:
    if not character or character.isspace():
        return OTHER
    if character.isdigit():
        return DIGIT
    return LETTER if character.isalpha() or ord(character) > 127 else OTHER
