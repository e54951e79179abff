"""From prepared tokens to the batches a model sees: blocks of one length, cut, ordered and masked."""

import numpy as np
import torch
from torch.utils.data import Dataset

from recipe.masking import Masking
from recipe.order import blocks_of


class Blocks:
    """A flat array of tokens cut into blocks of `length`, each with its begin and end token around length - 2 of the
    corpus's. Every token is in exactly one block; the last block is shorter where they don't divide, and padded."""

    def __init__(self, tokens: np.ndarray, length: int, ends: tuple[int, int], pad_id: int):
        self.tokens = np.asarray(tokens)  # a plain view: slicing np.memmap itself is ten times slower
        self.length, self.ends, self.pad_id = length, ends, pad_id
        self.body = length - 2

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.body)

    def rows(self, blocks: np.ndarray) -> np.ndarray:
        """[len(blocks), length]: the ids of these blocks."""
        rows = np.empty((len(blocks), self.length), dtype=self.tokens.dtype)
        rows[:, 0], rows[:, -1] = self.ends
        for row, block in zip(rows, blocks.tolist(), strict=True):
            text = self.tokens[block * self.body : (block + 1) * self.body]
            row[1 : 1 + len(text)] = text
            if len(text) < self.body:
                row[1 + len(text)] = self.ends[1]
                row[2 + len(text) :] = self.pad_id
        return rows


class MaskedSequences(Dataset):
    """The sequences n of a run as model inputs; indexed by ranges of n, each giving one batch.

    With `order_seed` blocks are permuted afresh each epoch (recipe.order); without, they come in their own order. A
    `limit` uses only so many of them, evenly spread over the corpus.
    A batch holds input_ids [batch, length], masked_positions [batch, K] and labels [batch, K], all int64, and an
    attention_mask only if a block in it is padded: without one, attention takes its fastest path.
    """

    def __init__(self, blocks: Blocks, masking: Masking, order_seed: int | None, limit: int | None = None):
        self.blocks, self.masking, self.order_seed = blocks, masking, order_seed
        self.count = min(len(blocks), limit or len(blocks))

    def __len__(self) -> int:
        return self.count

    def block_ids(self, sequences: range) -> np.ndarray:
        """The block id of each sequence."""
        n = np.arange(sequences.start, sequences.stop)
        places = n if self.order_seed is None else blocks_of(n, self.count, self.order_seed)
        return places * len(self.blocks) // self.count

    def __getitems__(self, sequences: range) -> dict[str, torch.Tensor]:
        ids = self.blocks.rows(self.block_ids(sequences))
        inputs, positions, labels = self.masking.apply(ids, sequences.start)
        batch = {"input_ids": inputs, "masked_positions": positions, "labels": labels}
        if (ids[:, -1] == self.blocks.pad_id).any():
            batch["attention_mask"] = (ids != self.blocks.pad_id).astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__(range(index, index + 1))
