"""Batches of the masked-language-modelling objective."""

import numpy as np
import torch

from recipe.data.blocks import Blocks, JoinedBlocks, OrderedBlocks, document_numbers
from recipe.data.mixtures import Turns
from recipe.objective.masking import Masking


class MaskedSequences(OrderedBlocks):
    """Sequences with masked tokens.

    A batch holds input_ids [batch, length], masked_positions [batch, K] and labels [batch, K], all int64, and an
    attention_mask [batch, length] only if a block is padded: without one, attention uses its fastest kernel. With
    `document_end` it holds documents [batch, length] in place of the attention mask.
    """

    metric_prefix = "masked_"

    def __init__(
        self,
        blocks: Blocks | JoinedBlocks,
        masking: Masking,
        order_seed: int | None,
        limit: int | None = None,
        document_end: int | None = None,
        turns: Turns | None = None,
    ):
        super().__init__(blocks, order_seed, limit, document_end, turns)
        self.masking, self.length = masking, blocks.length

    def __getitems__(self, sequences: range) -> dict[str, torch.Tensor]:
        ids = self.blocks.rows(self.block_ids(sequences))
        inputs, positions, labels = self.masking.apply(ids, sequences.start)
        batch = {"input_ids": inputs, "masked_positions": positions, "labels": labels}
        if self.document_end is not None:
            batch["documents"] = document_numbers(ids, self.document_end)
        elif (ids[:, -1] == self.blocks.pad_id).any():
            batch["attention_mask"] = (ids != self.blocks.pad_id).astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def count_predicted(self, length: int) -> int:
        return self.masking.masked_per_block(length)
