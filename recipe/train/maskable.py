"""Checks before step 1 that the text has tokens to mask, and that whole-word masking reaches its rate."""

import numpy as np

from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import IGNORED
from recipe.system.errors import UserError
from recipe.train.sequences import Sequences

SAMPLED_BLOCKS = 64  # evenly spread over the text; takes some 10 ms
# Whole words leave a block some two tokens short of its quota (14.7 % masked of 15 %). Where words are longer than the
# quota, as in text without spaces, almost nothing is masked (0.7 %). Below a half, most of a step's compute is wasted.
MIN_FRACTION = 0.5
CHUNK_TOKENS = 1 << 20


def require_maskable(sequences: Sequences[MaskedSequences]) -> None:
    """Raises UserError if a split has no token that can be masked, or if whole-word masking masks at most MIN_FRACTION
    of the requested tokens in training, or none in validation."""
    train, evaluation = sequences.train, sequences.evaluation
    for split, data in (("training", train), ("validation", evaluation)):
        if not _has_maskable(data):
            raise UserError(
                f"found nothing to mask: all {sum(len(s.tokens) for s in data.blocks.sources):,} {split} tokens are "
                "special or unknown; expected text that the tokenizer knows: use TOKENIZER=train, or other text"
            )
    masked_phases = [data for data in sequences.of_phases if isinstance(data, MaskedSequences)]
    limits = [("training", data, MIN_FRACTION) for data in masked_phases]
    for split, data, fraction in [*limits, ("validation", evaluation, 0.0)]:
        if data.masking.words is None:
            continue
        masked, requested = masking_rates(data)
        if masked <= fraction * requested:
            raise UserError(
                f"--whole_word_mask masks {masked:.1%} of the {split} tokens in blocks of {data.length}, expected "
                f"about {requested:.0%}: most words are longer than the {data.count_predicted(data.length)} tokens "
                "masked per block, as in text without spaces; leave the flag out to mask single tokens"
            )


def masking_rates(data: MaskedSequences) -> tuple[float, float]:
    """The (actual, requested) masking rate in up to SAMPLED_BLOCKS evenly spread sequences."""
    masked = requested = tokens = 0.0
    for n in np.unique(np.linspace(0, len(data) - 1, SAMPLED_BLOCKS).astype(np.int64)).tolist():
        text = int((data.blocks.rows(data.block_ids(range(n, n + 1))) != data.blocks.pad_id).sum())
        tokens += text
        requested += text * float(data.masking.rates(np.array([n]))[0])
        masked += int((data[n]["labels"] != IGNORED).sum())
    return masked / tokens, requested / tokens


def _has_maskable(data: MaskedSequences) -> bool:
    special = data.masking.is_special
    return any(
        not special[source.tokens[start : start + CHUNK_TOKENS]].all()
        for source in data.blocks.sources
        for start in range(0, len(source.tokens), CHUNK_TOKENS)
    )
