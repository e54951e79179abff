"""BERT's masking from a counter-based random generator: which tokens are masked, and what replaces them.

Sequence n draws from its own section of one Philox stream (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011), so that its mask is a pure function of (seed, n). Every block of a run has the same number of masked
positions, so that shapes are static.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recipe.objective.span_masking import NEVER, Spans, choose_smallest, run_starts
from recipe.objective.words import WordBoundaries

IGNORED = -100  # the label that cross-entropy ignores


@dataclass(frozen=True)
class Masking:
    """The masking of blocks; probabilities are between 0 and 1.

    A share `mlm_probability` of a block's tokens is masked, that is, chosen for prediction; of these,
    `mask_replace_prob` are replaced by the mask token, `random_replace_prob` by a random ordinary token, and the rest
    stay (Devlin et al., 2019: .15, .8, .1). `special_ids` are never masked and never drawn. With `words`, whole words
    are masked; with `spans`, spans of tokens or words, and all tokens of an unbroken run are replaced in the same way.
    With `rate_of`, a share `rate_of(n)` <= `mlm_probability` of sequence n is masked; the shape still follows from
    `mlm_probability`.
    """

    vocab_size: int
    mask_id: int
    pad_id: int
    special_ids: tuple[int, ...]
    seed: int
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    words: WordBoundaries | None = None
    spans: Spans | None = None
    rate_of: Callable[[np.ndarray], np.ndarray] | None = None

    @cached_property
    def is_special(self) -> np.ndarray:
        """[vocab_size] bool."""
        return np.isin(np.arange(self.vocab_size), self.special_ids)

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids that may replace a masked token."""
        return np.flatnonzero(~self.is_special)

    def masked_per_block(self, length: int) -> int:
        """The number of masked positions in a block of `length` tokens."""
        return max(1, round(self.mlm_probability * length))

    def rates(self, numbers: np.ndarray) -> np.ndarray:
        """The masking rate of each sequence in `numbers`."""
        return np.full(len(numbers), self.mlm_probability) if self.rate_of is None else self.rate_of(numbers)

    def apply(self, ids: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks the sequences first, first + 1, ..., whose tokens are the rows of `ids` [batch, length].

        Returns (input ids [batch, length], masked positions [batch, K], labels [batch, K]), all int64. A block with
        fewer than K masked tokens (the short last block, or words whose sizes don't add up) has the label -100 at its
        spare positions.
        """
        batch, length = ids.shape
        count = self.masked_per_block(length)
        order_keys, actions, draws, span_draws = self._random(batch, length, count, first)

        ordinary = ~self.is_special[ids]
        rate = self.rates(first + np.arange(batch))[:, None]
        quota = np.maximum(1, np.rint(rate * (ids != self.pad_id).sum(axis=1, keepdims=True)))
        keys = np.where(ordinary, order_keys, NEVER)
        if self.words is None and self.spans is None:
            positions = np.argsort(keys, axis=1)[:, :count]
            chosen = np.take_along_axis(ordinary, positions, axis=1) & (np.arange(count) < quota)
        else:
            masked = self._choose_words_or_spans(ids, ordinary, keys, quota, span_draws)
            positions = np.argsort(~masked, axis=1, kind="stable")[:, :count]
            chosen = np.take_along_axis(masked, positions, axis=1)
            if self.spans is not None:
                actions = np.take_along_axis(actions, run_starts(positions), axis=1)

        original = np.take_along_axis(ids, positions, axis=1).astype(np.int64)
        replaced = np.where(actions < self.mask_replace_prob, self.mask_id, original)
        is_random = (actions >= self.mask_replace_prob) & (actions < self.mask_replace_prob + self.random_replace_prob)
        replaced = np.where(is_random, self.ordinary_ids[draws % len(self.ordinary_ids)], replaced)

        inputs = ids.astype(np.int64)
        np.put_along_axis(inputs, positions, np.where(chosen, replaced, original), axis=1)
        return inputs, positions, np.where(chosen, original, IGNORED)

    def _choose_words_or_spans(self, ids, ordinary, keys, quota, span_draws) -> np.ndarray:
        """The tokens masked under whole-word or span masking, [batch, length] bool."""
        spans = self.spans
        if self.words is None:
            assert spans is not None, "called for words or spans"
            return choose_smallest(spans.spread(keys, span_draws, np.cumsum(~ordinary, axis=1)), quota)
        if spans is None:
            return self.words.choose(ids, ordinary, keys, quota, None)

        def spread(word_keys: np.ndarray) -> np.ndarray:
            return spans.spread(word_keys, span_draws, np.cumsum(word_keys == NEVER, axis=1))

        return self.words.choose(ids, ordinary, keys, quota, spread)

    def _random(self, batch: int, length: int, count: int, first: int):
        """Random numbers per sequence: `length` order keys (uint32), `count` actions in [0, 1), `count` draws (uint32)
        and, for spans, `length` more draws."""
        words = length + 2 * count + (0 if self.spans is None else length)
        counters = -(-words // 8)  # one Philox counter gives four uint64, or eight uint32
        stream = np.random.Philox(key=self.seed, counter=first * counters)
        raw = stream.random_raw(batch * counters * 4).view(np.uint32).reshape(batch, counters * 8)
        keys, actions, draws, spans = np.split(raw[:, :words], (length, length + count, length + 2 * count), axis=1)
        return keys, actions * 2.0**-32, draws, spans
