"""Word boundaries of byte-level BPE tokenizers in a row of token ids.

GPT-2's pre-tokenizer splits a text into contractions ('s 't 're 've 'm 'll 'd); runs of letters, of numbers and of
other characters, each including a space before it; and runs of white space, without the last character if a word
follows: that one belongs to the word if it is a space, and is a word of its own if not. A token is always inside one
word. So whether a word begins at a token follows from the classes of the characters on both sides and a few
neighbouring tokens, which are looked up in tables over the vocabulary.
"""

from functools import cache
from itertools import pairwise

import numpy as np
from tokenizers import pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

LETTER, NUMBER, OTHER, SPACE, SPECIAL, INSIDE, OPEN = range(7)  # INSIDE, OPEN: begins, ends inside a character
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for."""
    byte_of = _byte_of()
    return bytes(byte_of[character] for character in token if character in byte_of)


@cache
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in bytes_to_unicode().items()}


def _split_characters(text: bytes) -> tuple[bytes, str, bytes]:
    """(last bytes of a character that began before, complete characters, first bytes of an incomplete character)."""
    head = 0
    while head < len(text) and text[head] & 0xC0 == 0x80:
        head += 1
    tail = len(text)
    for back in range(1, min(4, len(text) - head) + 1):
        lead = text[-back]
        if lead & 0xC0 != 0x80:
            tail = len(text) - back if _byte_length(lead) > back else tail
            break
    return text[:head], text[head:tail].decode(errors="replace"), text[tail:]


def _byte_length(lead: int) -> int:
    """The number of bytes of a UTF-8 character, from its first byte."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


class Gpt2Words:
    """Marks where words begin, for GPT-2's pre-tokenizer `words`; `texts` are the bytes of all tokens, `added`
    [vocabulary] bool the added tokens, which are no part of the text around them.

    Exact except at both ends of a row, where a word depends on text outside of the row ("'s" on what is before it,
    white space on what follows).
    """

    def __init__(self, texts: list[bytes], added: np.ndarray, words: pre_tokenizers.PreTokenizer):
        self.words, self.classes, self.texts = words, {}, texts
        self.first, self.last = np.full((2, len(texts)), SPECIAL, dtype=np.int8)
        self.blank = np.zeros(len(texts), dtype=bool)  # only white space
        for token in np.flatnonzero(~added).tolist():
            head, whole, tail = _split_characters(texts[token])
            if head or whole or tail:
                self.first[token] = INSIDE if head else self._class_of(whole[0]) if whole else OPEN
                self.last[token] = OPEN if tail else self._class_of(whole[-1]) if whole else INSIDE
                self.blank[token] = not (head or tail) and all(self._class_of(letter) == SPACE for letter in whole)
        self.single = np.array([len(text.decode(errors="ignore")) == 1 for text in texts])
        self.lone_space, self.apostrophe = self._tokens(" "), self._tokens("'")
        self.contraction = self._tokens(*CONTRACTIONS)
        self.after_apostrophe = self._tokens(*(letters[1:] for letters in CONTRACTIONS))
        # Contractions of three characters that consist of two or three tokens: 'r and e, or ' and r and e.
        self.split_contractions = [
            tuple(self._tokens(part) for part in (letters[:2], letters[1], letters[2]))
            for letters in CONTRACTIONS
            if len(letters) == 3
        ]

    def _class_of(self, character: str) -> int:
        """The class of a character, determined by the pre-tokenizer itself."""
        if character not in self.classes:
            same = (kind for kind, n in enumerate("a1!") if len(self.words.pre_tokenize_str(n + character + n)) == 1)
            self.classes[character] = next(same, SPACE)
        return self.classes[character]

    def _tokens(self, *texts: str) -> np.ndarray:
        """The tokens with one of these texts, [vocabulary] bool."""
        wanted = {text.encode() for text in texts}
        return np.array([text in wanted for text in self.texts]) & (self.first != SPECIAL)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token of `ids`, [batch, length] bool."""
        first, last, blank = self.first[ids], self.last[ids], self.blank[ids]
        broken = self._close_characters(ids, first, last, blank) if (last >= INSIDE).any() else []
        after = np.full(ids.shape, SPECIAL, dtype=np.int8)  # the class of the next character
        after[:, :-1] = first[:, 1:]
        ends_run = self.single[ids]
        for row, place, following in broken:
            after[row, place], ends_run[row, place] = following, True
        ends_run &= after <= OTHER  # the last white space before a word
        joins = np.zeros(ids.shape, dtype=bool)  # belongs to the word of the token before
        before, follows = last[:, :-1], first[:, 1:]
        joins[:, 1:] = (before == follows) & (before <= OTHER)
        joins[:, 1:] |= self.lone_space[ids[:, :-1]] & (follows <= OTHER)
        joins[:, 1:] |= (before == SPACE) & blank[:, 1:] & ~ends_run[:, 1:]
        joins[:, 1:] |= (follows == INSIDE) & (before != SPECIAL)
        self._join_contractions(ids, joins)
        return ~joins

    def _join_contractions(self, ids: np.ndarray, joins: np.ndarray) -> None:
        """Joins the tokens of each contraction and separates it from what follows (in place)."""
        ends = self.contraction[ids]
        begins = self.apostrophe[ids] & ~joins
        two = begins[:, :-1] & self.after_apostrophe[ids[:, 1:]]
        joins[:, 1:] |= two
        ends[:, 1:] |= two
        for start, middle, end in self.split_contractions:
            ends[:, 1:] |= start[ids[:, :-1]] & end[ids[:, 1:]]
            three = begins[:, :-2] & middle[ids[:, 1:-1]] & end[ids[:, 2:]]
            joins[:, 1:-1] |= three
            joins[:, 2:] |= three
            ends[:, 2:] |= three
        joins[:, 1:] &= ~ends[:, :-1]

    def _close_characters(self, ids, first, last, blank) -> list[tuple[int, int, int]]:
        """Assigns a character's class to the tokens that share its bytes (in place). Returns (row, position, class of
        the next character) of white-space characters that are split in this way."""
        spaces = []
        places = np.argwhere(last == OPEN)[::-1].tolist()  # backwards, since the loop reads classes of later tokens
        for row, place in places:
            character, stop = _split_characters(self.texts[ids[row, place]])[2], place + 1
            missing = _byte_length(character[0]) - len(character)
            while missing > 0 and stop < ids.shape[1] and first[row, stop] == INSIDE:
                head = _split_characters(self.texts[ids[row, stop]])[0]
                character, missing, stop = character + head, missing - len(head), stop + 1
            kind = OTHER if missing else self._class_of(character.decode(errors="replace")[0])
            unset = last[row, place:stop]
            unset[unset >= INSIDE] = kind
            blank[row, place] = kind == SPACE == first[row, place]  # white space at both ends: the complete token is
            if first[row, place] == OPEN:
                first[row, place], blank[row, place] = kind, kind == SPACE
                if kind == SPACE:
                    spaces.append((row, place, first[row, stop] if stop < ids.shape[1] else SPECIAL))
        last[last >= INSIDE] = OTHER  # the end of a character that began before the row
        return spaces


class DecodedWords:
    """Marks where words begin, for any byte-level pre-tokenizer: each row is decoded and pre-tokenised again, which
    takes about 7 ms per 512 tokens (Gpt2Words: 0.3). Exact except at both ends of a row."""

    def __init__(self, texts: list[bytes], added: np.ndarray, words: pre_tokenizers.PreTokenizer):
        self.texts, self.added, self.words = texts, added, words
        self.lengths = np.array([len(text) for text in texts])

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token of `ids`, [batch, length] bool."""
        begins = self.added[ids]
        for row, row_begins in zip(ids, begins, strict=True):
            edges = [-1, *np.flatnonzero(row_begins).tolist(), len(row)]
            for before, stop in pairwise(edges):
                if stop - before > 1:
                    row_begins[before + 1 : stop] = self._begins_in_text(row[before + 1 : stop])
        return begins

    def _begins_in_text(self, ids: np.ndarray) -> np.ndarray:
        """Where words begin in tokens without added tokens among them, [length] bool."""
        head, whole, _ = _split_characters(b"".join(self.texts[token] for token in ids.tolist()))
        lengths = [len(piece) for piece, _ in self.words.pre_tokenize_str(whole)]  # one character per byte
        space = sum(lengths) - len(whole.encode())  # 1 if the pre-tokenizer puts a space before the text
        words = len(head) - space + np.cumsum([0, *lengths])
        starts = np.cumsum(self.lengths[ids]) - self.lengths[ids]
        return np.isin(starts, words) | (starts == 0)
