"""Where words begin in a row of token ids: the words of the tokenizer's own pre-tokenizer, found from the ids alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipe.objective.byte_words import Gpt2Words, RereadWords, token_bytes
from recipe.system.errors import UserError


@dataclass(frozen=True)
class MarkedWords:
    """Words whose first token shows it: `opens` [vocabulary] bool."""

    opens: np.ndarray

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self.opens[ids]


@dataclass(frozen=True)
class WordBoundaries:
    """`begins(ids)` says for `ids` [batch, length] where a word begins, [batch, length] bool."""

    begins: Callable[[np.ndarray], np.ndarray]

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """[batch, length] bool: whether a word begins at each token of `ids`; the first one of a row begins one."""
        starts = self.begins(ids).copy()
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
        `spread`, if given, turns the keys of words [batch, words] into others (recipe.objective.span_masking).

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
    """The boundaries of `tokenizer`'s words.

    WordPiece marks what continues a word with ##, SentencePiece what begins one with ▁. To a byte-level BPE with
    GPT-2's rule see `recipe.objective.byte_words`; text is put together again for one with another rule. Raises
    UserError for a vocabulary that shows no words.
    """
    backend = tokenizer.backend_tokenizer
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = np.zeros(len(tokens), dtype=bool)
    added[list(backend.get_added_tokens_decoder())] = True  # text is cut at them before there are words
    if isinstance(backend.model, models.WordPiece):
        mark = backend.model.continuing_subword_prefix
        return WordBoundaries(MarkedWords(np.array([not token.startswith(mark) for token in tokens]) | added))
    steps = _steps(backend.pre_tokenizer)
    if any(isinstance(step, pre_tokenizers.ByteLevel) for step in steps):
        texts = [b"" if is_added else token_bytes(token) for token, is_added in zip(tokens, added, strict=True)]
        if len(steps) == 1 and steps[0].use_regex:
            return WordBoundaries(Gpt2Words(texts, added, backend.pre_tokenizer))
        return WordBoundaries(RereadWords(texts, added, backend.pre_tokenizer))
    opens = np.array([token.startswith("▁") for token in tokens])
    if not opens.any():
        raise UserError(
            "--whole_word_mask needs a vocabulary that marks words with Ġ, ## or ▁, this tokenizer's has none of them: "
            "leave the flag out or use another tokenizer"
        )
    return WordBoundaries(MarkedWords(opens | added))


def _steps(pre_tokenizer) -> list:
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return [step for part in pre_tokenizer for step in _steps(part)]
    return [] if pre_tokenizer is None else [pre_tokenizer]
