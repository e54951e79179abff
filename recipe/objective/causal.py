"""Batches of the causal objective: next-token prediction, by a causal model or by a masked one in a causal phase."""

from typing import Any

import numpy as np
import torch

from recipe.data.blocks import Blocks, JoinedBlocks, OrderedBlocks, document_numbers
from recipe.data.mixtures import Turns
from recipe.objective.masking import IGNORED


class NextTokens(OrderedBlocks):
    """Sequences in which every token is predicted from those before it.

    `blocks` are one token longer than the model's input and have no end token: the model reads all but the last token
    and predicts all but the first, so that each token of the corpus is predicted exactly once per epoch. A batch holds
    input_ids [batch, length] and labels [batch, length], both int64, and with `document_end` documents [batch, length].
    Padding has the label -100 and needs no attention mask, since it comes after all text.
    """

    metric_prefix = ""

    def __init__(
        self,
        blocks: Blocks | JoinedBlocks,
        order_seed: int | None,
        limit: int | None = None,
        document_end: int | None = None,
        turns: Turns | None = None,
    ):
        super().__init__(blocks, order_seed, limit, document_end, turns)
        self.length = blocks.length - 1

    def __getitems__(self, sequences: range) -> dict[str, torch.Tensor]:
        ids = self.blocks.rows(self.block_ids(sequences)).astype(np.int64)
        inputs, labels = np.ascontiguousarray(ids[:, :-1]), ids[:, 1:].copy()
        labels[labels == self.blocks.pad_id] = IGNORED
        batch = {"input_ids": inputs, "labels": labels}
        if self.document_end is not None:
            batch["documents"] = document_numbers(inputs, self.document_end)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def count_predicted(self, length: int) -> int:
        return length


class NextTokensOfMasked(OrderedBlocks):
    """The blocks of a masked model in a causal phase: each token of the text but the first is predicted from those
    before it, through the same head, and the block's end token isn't.

    A batch holds input_ids [batch, length], masked_positions and labels [batch, length - 2], all int64, with
    `document_end` documents [batch, length], and causal, which is True. Padding has the label -100.
    """

    metric_prefix = "masked_"

    def __init__(self, blocks: Blocks | JoinedBlocks, **order):
        super().__init__(blocks, **order)
        self.length = blocks.length

    def __getitems__(self, sequences: range) -> dict[str, Any]:
        ids = self.blocks.rows(self.block_ids(sequences)).astype(np.int64)
        labels = np.where(ids[:, 1:-1] == self.blocks.pad_id, IGNORED, ids[:, 1:-1])
        batch = {
            "input_ids": ids,
            "masked_positions": np.broadcast_to(np.arange(labels.shape[1]), labels.shape).copy(),
            "labels": labels,
        }
        if self.document_end is not None:
            batch["documents"] = document_numbers(ids, self.document_end)
        return {"causal": True} | {name: torch.from_numpy(array) for name, array in batch.items()}

    def count_predicted(self, length: int) -> int:
        return length - 2
