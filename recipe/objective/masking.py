"""Which tokens of a block are hidden, and behind what: BERT's masking from a counter-based generator.

Sequence n draws from its own stretch of one Philox stream (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011), so its mask is a pure function of (seed, n). Every block of a run gives the same number of masked
positions, so shapes never change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recipe.objective.span_masking import NEVER, Spans, choose, run_of
from recipe.objective.words import WordBoundaries

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class Masking:
    """How blocks are masked. Probabilities are shares of 1.

    `mlm_probability` of a block's tokens are chosen to be predicted; of those, `mask_replace_prob` become the mask
    token, `random_replace_prob` a random ordinary token, the rest stay (Devlin et al., 2019: .15, .8, .1).
    `special_ids` are never chosen and never drawn. With `words`, whole words are chosen; with `spans`, stretches of
    tokens or words, and an unbroken stretch is replaced in one way. With `rate_of`, sequence n has `rate_of(n)` of its
    tokens predicted, at most `mlm_probability`, which goes on deciding the shape.
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
        """The ids that a hidden token may be replaced by."""
        return np.flatnonzero(~self.is_special)

    def masked_per_block(self, length: int) -> int:
        """Masked positions of a block of `length` tokens."""
        return max(1, round(self.mlm_probability * length))

    def rates(self, numbers: np.ndarray) -> np.ndarray:
        """The share of tokens to predict in each sequence n."""
        return np.full(len(numbers), self.mlm_probability) if self.rate_of is None else self.rate_of(numbers)

    def apply(self, ids: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks the sequences first, first + 1, ... whose tokens are the rows of `ids` [batch, length].

        Returns (input ids [batch, length], positions [batch, K], labels [batch, K]), all int64. Where a block has
        fewer than K tokens to hide (the short last one of the corpus, or words that don't add up), spare places carry
        -100.
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
            hidden = self._hidden(ids, ordinary, keys, quota, span_draws)
            positions = np.argsort(~hidden, axis=1, kind="stable")[:, :count]
            chosen = np.take_along_axis(hidden, positions, axis=1)
            if self.spans is not None:
                actions = np.take_along_axis(actions, run_of(positions), axis=1)

        original = np.take_along_axis(ids, positions, axis=1).astype(np.int64)
        replaced = np.where(actions < self.mask_replace_prob, self.mask_id, original)
        is_random = (actions >= self.mask_replace_prob) & (actions < self.mask_replace_prob + self.random_replace_prob)
        replaced = np.where(is_random, self.ordinary_ids[draws % len(self.ordinary_ids)], replaced)

        inputs = ids.astype(np.int64)
        np.put_along_axis(inputs, positions, np.where(chosen, replaced, original), axis=1)
        return inputs, positions, np.where(chosen, original, IGNORED)

    def _hidden(self, ids, ordinary, keys, quota, span_draws) -> np.ndarray:
        """[batch, length] bool: what whole words or spans come to."""
        if self.words is None:
            return choose(self.spans.spread(keys, span_draws, np.cumsum(~ordinary, axis=1)), quota)
        spread = None
        if self.spans is not None:

            def spread(word_keys):
                return self.spans.spread(word_keys, span_draws, np.cumsum(word_keys == NEVER, axis=1))

        return self.words.choose(ids, ordinary, keys, quota, spread)

    def _random(self, batch: int, length: int, count: int, first: int):
        """Per sequence: `length` order keys (uint32), `count` actions in [0, 1), `count` draws (uint32) and, for spans,
        `length` more."""
        words = length + 2 * count + (0 if self.spans is None else length)
        counters = -(-words // 8)  # one Philox counter gives four uint64, that is eight uint32
        stream = np.random.Philox(key=self.seed, counter=first * counters)
        raw = stream.random_raw(batch * counters * 4).view(np.uint32).reshape(batch, counters * 8)
        keys, actions, draws, spans = np.split(raw[:, :words], (length, length + count, length + 2 * count), axis=1)
        return keys, actions * 2.0**-32, draws, spans
