"""Blocks of one length cut from prepared tokens, and datasets that return them in training order."""

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from recipe.data.mixtures import PERIOD, Turns
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

    @property
    def sources(self) -> "tuple[Blocks, ...]":
        """The blocks of each source: one, since this is not a mixture."""
        return (self,)

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


class JoinedBlocks:
    """The blocks of several sources, which have one length and tokenizer, numbered one source after another."""

    def __init__(self, sources: tuple[Blocks, ...]):
        self.sources = sources
        self.length, self.pad_id = sources[0].length, sources[0].pad_id
        self.starts = np.array([0, *accumulate(map(len, sources))])  # the number of each source's first block

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, blocks: np.ndarray) -> np.ndarray:
        """The token ids of the blocks with these numbers, [len(blocks), length]."""
        of = np.searchsorted(self.starts, blocks, side="right") - 1
        rows = np.empty((len(blocks), self.length), dtype=self.sources[0].tokens.dtype)
        for number in np.unique(of):
            rows[of == number] = self.sources[number].rows(blocks[of == number] - self.starts[number])
        return rows


def document_numbers(ids: np.ndarray, end: int) -> np.ndarray:
    """[batch, length] int64: the number of each token's document in its block `ids` [batch, length], whose documents
    end with the token `end`; padding has numbers of its own."""
    ends = ids == end
    return np.cumsum(ends, axis=1) - ends


class OrderedBlocks(Dataset):
    """The sequences of a run; a range of sequence numbers gives one batch, whose content subclasses define.

    With `order_seed`, blocks are permuted anew each epoch (recipe.data.order), those of each source of a mixture on its
    own, in the order of `turns`; without, they keep their order. With `limit`, only that many blocks of each source are
    used, evenly spread over it. With `document_end`, the token that ends documents, a batch has their numbers for
    document attention.
    """

    metric_prefix: str  # of the evaluation metrics accuracy and tokens
    length: int  # tokens per sequence that the model sees

    def __init__(
        self,
        blocks: Blocks | JoinedBlocks,
        order_seed: int | None,
        limit: int | None = None,
        document_end: int | None = None,
        turns: Turns | None = None,
    ):
        self.blocks, self.order_seed, self.limit, self.document_end = blocks, order_seed, limit, document_end
        self.counts = tuple(min(len(source), limit or len(source)) for source in blocks.sources)
        self.turns = turns or Turns((PERIOD,))
        if order_seed is not None and len(self.turns.shares) != len(self.counts):
            raise ValueError(f"expected turns of {len(self.counts)} sources")

    def __len__(self) -> int:
        return sum(self.counts)

    def block_ids(self, sequences: range) -> np.ndarray:
        """[len(sequences)] int64: the block number of each sequence."""
        if self.order_seed is None:
            bounds = np.array([0, *accumulate(self.counts)])
            of = np.searchsorted(bounds, np.arange(sequences.start, sequences.stop), side="right") - 1
            before, after = (np.clip(end - bounds[:-1], 0, self.counts) for end in (sequences.start, sequences.stop))
        else:
            of = self.turns.sources(sequences)
            before, after = self.turns.before(sequences.start), self.turns.before(sequences.stop)
        ids = np.empty(len(sequences), dtype=np.int64)
        start = 0  # the number of the source's first block
        for number, (source, count) in enumerate(zip(self.blocks.sources, self.counts, strict=True)):
            own = range(int(before[number]), int(after[number]))
            if own:
                seed = self.order_seed
                places = np.array(own) if seed is None else blocks_in(own, count, seed + number)
                ids[of == number] = start + places * len(source) // count
            start += len(source)
        return ids

    def parts(self) -> list[range]:
        """The sequence numbers of each source, where blocks keep their order."""
        bounds = [0, *accumulate(self.counts)]
        return [range(start, stop) for start, stop in pairwise(bounds)]

    def epochs(self, number: int) -> list[float]:
        """How often a run has passed over each source before sequence `number`."""
        return [float(seen / count) for seen, count in zip(self.turns.before(number), self.counts, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__(range(index, index + 1))

    def __getitems__(self, sequences: range) -> dict[str, Any]:
        """A batch: tensors, and True for `causal` in a causal phase of a masked model."""
        raise NotImplementedError

    def count_predicted(self, length: int) -> int:
        """The number of predicted tokens in a sequence of `length` tokens: the vocabulary projection runs on these."""
        raise NotImplementedError
