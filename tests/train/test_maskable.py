"""Checks before step 1 that the text has tokens to mask and that whole-word masking reaches its rate."""

import numpy as np
import pytest
import torch
from toy import TOKENIZERS, flat_tokens, sequences_of, toy_documents
from toy_trainers import make_trainer

from recipe.data.blocks import Blocks
from recipe.data.tokenizer import block_ends
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking
from recipe.objective.span_masking import Spans
from recipe.objective.words import word_boundaries
from recipe.system.errors import UserError
from recipe.train.maskable import masking_rates, require_maskable
from recipe.train.sequences import Sequences


def of_tokens(tokenizer, tokens, length=32, **masking) -> MaskedSequences:
    blocks = Blocks(np.asarray(tokens, dtype=np.uint16), length, block_ends(tokenizer), tokenizer.pad_token_id)
    specials = tuple(tokenizer.all_special_ids)
    return MaskedSequences(
        blocks, Masking(len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id, specials, 7, **masking), 3
    )


def test_a_split_of_special_and_unknown_tokens_is_refused(wordpiece, documents):
    text = of_tokens(wordpiece, flat_tokens(wordpiece, documents))
    nothing = of_tokens(wordpiece, [wordpiece.unk_token_id, wordpiece.sep_token_id] * 100)
    require_maskable(Sequences(None, text, (text,), text))
    with pytest.raises(UserError, match="found nothing to mask: all 200 training tokens are special or unknown"):
        require_maskable(Sequences(None, nothing, (nothing,), text))
    with pytest.raises(UserError, match="all 200 validation tokens"):
        require_maskable(Sequences(None, text, (text,), nothing))


@pytest.mark.parametrize("spans", [None, Spans()])
def test_words_longer_than_the_masked_tokens_of_a_block_are_refused(bpe, documents, spans):
    words = word_boundaries(bpe)
    text = sequences_of(bpe, documents, length=64, words=words, spans=spans)
    masked, requested = masking_rates(text)
    assert 0.9 * requested < masked <= 1.05 * requested and requested == pytest.approx(0.15)
    require_maskable(Sequences(None, text, (text,), text))
    endless = sequences_of(
        bpe, ["".join(toy_documents(40)).replace(" ", "")[:2000]], length=64, words=words, spans=spans
    )
    letters = sequences_of(bpe, ["ACGT" * 500], length=64, words=words, spans=spans)
    assert masking_rates(letters)[0] == 0.0
    for phases, evaluation in (((letters,), text), ((text, letters), text), ((text,), letters)):
        with pytest.raises(
            UserError, match=r"--whole_word_mask masks 0.0% of the .* in blocks of 64, expected about 15%"
        ):
            require_maskable(Sequences(None, text, phases, evaluation))
    assert masking_rates(endless)[0] > 0  # punctuation
    require_maskable(
        Sequences(None, sequences_of(bpe, ["ACGT" * 500], spans=spans), (), text)
    )  # single tokens always fit


def test_the_requested_rate_follows_a_decaying_masking_rate(bpe, documents):
    decaying = sequences_of(bpe, documents, words=word_boundaries(bpe), rate_of=lambda n: 0.15 - 0.1 * (n > 50))
    masked, requested = masking_rates(decaying)
    assert 0.05 < requested < 0.15 and masked > 0.7 * requested


@pytest.mark.parametrize("family", ["roberta"])
def test_a_batch_with_nothing_to_predict_has_a_loss_of_zero(family, request, tmp_path):
    """The batch is one block that holds only an end token."""
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    trainer = make_trainer(tmp_path, tokenizer, toy_documents(20), steps=1, save_strategy="no")
    batch = {
        "input_ids": torch.full((1, 32), tokenizer.eos_token_id),
        "masked_positions": torch.zeros((1, 5), dtype=torch.int64),
        "labels": torch.full((1, 5), -100),
    }
    for count in (torch.tensor(0), 0):
        assert trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=count).item() == 0.0
