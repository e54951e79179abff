"""Blocks of one length cut from prepared tokens, and datasets that return them in training order."""

import numpy as np
import torch
from torch.utils.data import Dataset

from recipe.data.order import blocks_in
from recipe.data.token_arrays import CheckedTokens


class Blocks:
    """A flat array of tokens, cut into blocks of `length` tokens.

    `ends` is (begin token, end token): a block is the begin token, tokens of the corpus and the end token, which may be
    None for no such token. Every token of the corpus is in exactly one block; the last block may be shorter and is
    padded with `pad_id`. CheckedTokens are verified before use.
    """

    def __init__(self, tokens: np.ndarray | CheckedTokens, length: int, ends: tuple[int, int | None], pad_id: int):
        self.tokens = tokens
        self.length, self.ends, self.pad_id = length, ends, pad_id
        self.body = length - sum(end is not None for end in ends)

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.body)

    def rows(self, blocks: np.ndarray) -> np.ndarray:
        """The token ids of the blocks with these numbers, [len(blocks), length]."""
        begin, end = self.ends
        starts, stops = blocks * self.body, np.minimum((blocks + 1) * self.body, len(self.tokens))
        tokens = self.tokens.verified(starts, stops) if isinstance(self.tokens, CheckedTokens) else self.tokens
        rows = np.empty((len(blocks), self.length), dtype=self.tokens.dtype)
        rows[:, 0] = begin
        if end is not None:
            rows[:, -1] = end
        for row, start, stop in zip(rows, starts.tolist(), stops.tolist(), strict=True):
            text = tokens[start:stop]
            row[1 : 1 + len(text)] = text
            if len(text) < self.body:
                row[1 + len(text) :] = self.pad_id
                if end is not None:
                    row[1 + len(text)] = end
        return rows


def document_numbers(ids: np.ndarray, end: int) -> np.ndarray:
    """[batch, length] int64: the number of each token's document in its block `ids` [batch, length], whose documents
    end with the token `end`; padding has numbers of its own."""
    ends = ids == end
    return np.cumsum(ends, axis=1) - ends


class OrderedBlocks(Dataset):
    """The sequences of a run; a range of sequence numbers gives one batch, whose content subclasses define.

    With `order_seed`, blocks are permuted anew each epoch (recipe.data.order); without, they keep their order. With
    `limit`, only that many blocks are used, evenly spread over the corpus. With `document_end`, the token that ends
    documents, a batch has their numbers for document attention.
    """

    metric_prefix: str  # of the evaluation metrics accuracy and tokens
    length: int  # tokens per sequence that the model sees

    def __init__(
        self, blocks: Blocks, order_seed: int | None, limit: int | None = None, document_end: int | None = None
    ):
        self.blocks, self.order_seed, self.document_end = blocks, order_seed, document_end
        self.count = min(len(blocks), limit or len(blocks))

    def __len__(self) -> int:
        return self.count

    def block_ids(self, sequences: range) -> np.ndarray:
        """[len(sequences)] int64: the block number of each sequence."""
        if self.order_seed is None:
            places = np.arange(sequences.start, sequences.stop)
        else:
            places = blocks_in(sequences, self.count, self.order_seed)
        return places * len(self.blocks) // self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__(range(index, index + 1))

    def __getitems__(self, sequences: range) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def count_predicted(self, length: int) -> int:
        """The number of predicted tokens in a sequence of `length` tokens: the vocabulary projection runs on these."""
        raise NotImplementedError
