"""What masking comes to on real blocks, looked at before the first step: whether there is anything to hide, and whether
whole words hide as much as they were asked to."""

import numpy as np

from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import IGNORED
from recipe.system.errors import UserError
from recipe.train.sequences import Sequences

BLOCKS = 64  # looked at, spread over the text: some 10 ms
# Words leave a block some two tokens short of its quota (14.7 % hidden of 15 %); where they don't fit into it, as in
# text without spaces, it is nearly everything (0.7 %). Below a half, most of what a step computes is for nothing.
LEAST = 0.5
CHUNK_TOKENS = 1 << 20


def require_maskable(sequences: Sequences) -> None:
    """Raises UserError where a split has no token that may be hidden, or where whole words hide less than LEAST of what
    was asked for in training."""
    train, short, evaluation = sequences.train, sequences.short, sequences.evaluation
    for split, data in (("training", train), ("validation", evaluation)):
        if not _any_ordinary(data):
            raise UserError(
                f"found nothing to mask: all {len(data.blocks.tokens):,} {split} tokens are special or unknown; "
                "expected text that the tokenizer knows: use TOKENIZER=train, or other text"
            )
    for split, data, least in (("training", train, LEAST), ("training", short, LEAST), ("validation", evaluation, 0.0)):
        if data is None or data.masking.words is None:
            continue
        hidden, asked = masked_shares(data)
        if hidden <= least * asked:
            raise UserError(
                f"--whole_word_mask hides {hidden:.1%} of the {split} tokens in blocks of {data.length}, expected "
                f"about {asked:.0%}: most words are longer than the {data.count_predicted(data.length)} tokens that a "
                "block hides, as in text without spaces; leave the flag out, and single tokens are hidden"
            )


def masked_shares(data: MaskedSequences) -> tuple[float, float]:
    """The shares of tokens that are hidden, and that were to be, in up to BLOCKS sequences, evenly spread."""
    hidden = asked = tokens = 0.0
    for n in np.unique(np.linspace(0, len(data) - 1, BLOCKS).astype(np.int64)).tolist():
        text = int((data.blocks.rows(data.block_ids(range(n, n + 1))) != data.blocks.pad_id).sum())
        tokens += text
        asked += text * float(data.masking.rates(np.array([n]))[0])
        hidden += int((data[n]["labels"] != IGNORED).sum())
    return hidden / tokens, asked / tokens


def _any_ordinary(data: MaskedSequences) -> bool:
    tokens, special = data.blocks.tokens, data.masking.is_special
    starts = range(0, len(tokens), CHUNK_TOKENS)
    return any(not special[tokens[start : start + CHUNK_TOKENS]].all() for start in starts)
