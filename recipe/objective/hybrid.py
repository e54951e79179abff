"""Batches of a hybrid of the masked and the causal objective: one step in so many is causal."""

from collections.abc import Callable
from typing import Any

import numpy as np

from recipe.data.blocks import OrderedBlocks
from recipe.objective.causal import NextTokensOfMasked
from recipe.objective.masked_sequences import MaskedSequences


class HybridSequences(MaskedSequences):
    """The sequences of `masked`, but for those of every step number `every`, which are those of `causal` (Charpentier
    and Samuel, "GPT or BERT: why not both?", 2024). `steps_of` maps sequence numbers to their steps."""

    def __init__(
        self,
        masked: MaskedSequences,
        causal: NextTokensOfMasked,
        every: int,
        steps_of: Callable[[np.ndarray], np.ndarray],
    ):
        OrderedBlocks.__init__(self, masked.blocks, masked.order_seed, masked.limit, masked.document_end, masked.turns)
        self.masking, self.length = masked.masking, masked.length
        self.causal, self.every, self.steps_of = causal, every, steps_of

    def __getitems__(self, sequences: range) -> dict[str, Any]:
        (step,) = self.steps_of(np.array([sequences.start]))
        return (self.causal if step % self.every == self.every - 1 else super()).__getitems__(sequences)
