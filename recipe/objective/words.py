"""Word boundaries for whole-word masking: where the pre-tokenizer's words begin, found from the token ids alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipe.objective.byte_words import DecodedWords, Gpt2Words, token_bytes
from recipe.system.errors import UserError


@dataclass(frozen=True)
class MarkedWords:
    """Words whose first token shows it by a mark: `is_first` [vocabulary] bool."""

    is_first: np.ndarray

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        return self.is_first[ids]


@dataclass(frozen=True)
class WordBoundaries:
    """Word boundaries of a tokenizer: `begins(ids)` [batch, length] bool marks where words begin in `ids`."""

    begins: Callable[[np.ndarray], np.ndarray]

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """Whether a word begins at each token of `ids`, [batch, length] bool; the first token of a row always does."""
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
        """Chooses whole words to mask, in the order of their first tokens' keys, up to `quota` [batch, 1] tokens.

        A word that no longer fits is skipped in favour of later ones, so that words are masked completely or not at
        all; a row has fewer tokens than its quota only when no remaining word is small enough. `ordinary` marks the
        tokens that may be masked; a special token ends a word. `spread`, if given, maps the keys of words [batch,
        words] to other keys (recipe.objective.span_masking). Returns [batch, length] bool.
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
        masked_words = np.zeros_like(taken)
        np.put_along_axis(masked_words, order, taken, axis=1)
        return np.take_along_axis(masked_words, word, axis=1) & ordinary


def word_boundaries(tokenizer: PreTrainedTokenizerFast) -> WordBoundaries:
    """The word boundaries of `tokenizer`.

    WordPiece marks the continuation of a word with ##, SentencePiece the beginning with ▁; for byte-level BPE see
    `recipe.objective.byte_words`. Raises UserError for a vocabulary without marks.
    """
    backend = tokenizer.backend_tokenizer
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = np.zeros(len(tokens), dtype=bool)
    added[list(backend.get_added_tokens_decoder())] = True  # text is split at them before it is split into words
    if isinstance(backend.model, models.WordPiece):
        mark = backend.model.continuing_subword_prefix
        return WordBoundaries(MarkedWords(np.array([not token.startswith(mark) for token in tokens]) | added))
    steps = _steps(backend.pre_tokenizer)
    if any(isinstance(step, pre_tokenizers.ByteLevel) for step in steps):
        texts = [b"" if is_added else token_bytes(token) for token, is_added in zip(tokens, added, strict=True)]
        if len(steps) == 1 and steps[0].use_regex:
            return WordBoundaries(Gpt2Words(texts, added, backend.pre_tokenizer))
        return WordBoundaries(DecodedWords(texts, added, backend.pre_tokenizer))
    is_first = np.array([token.startswith("▁") for token in tokens])
    if not is_first.any():
        raise UserError(
            "--whole_word_mask needs a vocabulary that marks words with Ġ, ## or ▁, this tokenizer's has none of them: "
            "leave the flag out or use another tokenizer"
        )
    return WordBoundaries(MarkedWords(is_first | added))


def _steps(pre_tokenizer) -> list:
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return [step for part in pre_tokenizer for step in _steps(part)]
    return [] if pre_tokenizer is None else [pre_tokenizer]
