"""Invariant 13: documents that share a block don't see each other, in no family, masked or causal."""

import numpy as np
import pytest
import torch
from toy import TOKENIZERS, config_settings, next_tokens_of, sequences_of
from transformers import AutoConfig
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
    packed_sequence_mask_function,
)

from recipe.data.blocks import document_numbers
from recipe.data.tokenizer import block_ends
from recipe.model.config import make_causal, set_dropout
from recipe.model.documents import document_inputs, require_masks
from recipe.model.families import FAMILIES, MASKED
from recipe.model.heads import use_masked_only_head, use_next_token_head
from recipe.model.loading import build_model
from recipe.system.errors import UserError

CAUSAL = ("causal roberta", "causal modernbert")
KINDS = [*(name for name in MASKED if FAMILIES[name].takes_masks), *CAUSAL]
LENGTH = 48
BORDERS = ((20, 29), (1, 47))  # where the second and the third document of each of two blocks begin


def model_of(kind):
    family = kind.removeprefix("causal ")
    config = AutoConfig.for_model(**config_settings(family))
    set_dropout(config, 0.0)
    config.initializer_range = 0.2  # of a size at which attention matters
    if kind in CAUSAL:
        config = make_causal(config, "toy")
    torch.manual_seed(0)
    return build_model(config).eval()


@pytest.fixture
def ids():
    return torch.randint(10, 300, (len(BORDERS), LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def numbers():
    places = torch.arange(LENGTH)
    return torch.stack([(places >= second).long() + (places >= third).long() for second, third in BORDERS])


def logits_of(model, hidden):
    return model.get_output_embeddings()(FAMILIES[model.config.model_type].head(model)(hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_s_logits_are_those_it_has_alone(kind, ids, numbers):
    model = model_of(kind)
    with torch.no_grad():
        together = logits_of(model, model.base_model(ids, **document_inputs(model, numbers))[0])
        without = logits_of(model, model.base_model(ids)[0])
        for row, (second, third) in enumerate(BORDERS):
            for begin, end in ((0, second), (second, third), (third, LENGTH)):
                alone = logits_of(model, model.base_model(ids[row : row + 1, begin:end])[0])[0]
                torch.testing.assert_close(together[row, begin:end], alone, rtol=0, atol=1e-5)
                if begin:
                    assert (without[row, begin:end] - alone).abs().max() > 1e-2, "the test sees a leak"


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_border(kind, ids, numbers):
    model, embedded = model_of(kind), {}

    def keep(module, inputs, output):
        output.retain_grad()
        embedded["words"] = output

    model.get_input_embeddings().register_forward_hook(keep)
    second, third = BORDERS[0]
    logits = logits_of(model, model.base_model(ids[:1], **document_inputs(model, numbers[:1]))[0])
    logits[0, second:third].square().sum().backward()
    of_token = embedded["words"].grad[0].abs().sum(-1)
    assert (of_token[second:third] > 0).all()
    assert of_token[:second].max() == 0 and of_token[third:].max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_transformers_for_packed_sequences(kind, numbers):
    model = model_of(kind)
    about = {
        "config": model.config,
        "inputs_embeds": torch.empty(*numbers.shape, 1),
        "attention_mask": None,
        "and_mask_function": packed_sequence_mask_function(numbers),
    }
    found = document_inputs(model, numbers)["attention_mask"]
    if "modernbert" in kind:
        past = {"past_key_values": None}
        full = create_causal_mask(**about, **past) if kind in CAUSAL else create_bidirectional_mask(**about)
        near = create_sliding_window_causal_mask if kind in CAUSAL else create_bidirectional_sliding_window_mask
        sliding = near(**about, **(past if kind in CAUSAL else {}))
        assert torch.equal(found["full_attention"], full)
        assert torch.equal(found["sliding_attention"], sliding) and not torch.equal(found["full_attention"], sliding)
    elif kind in CAUSAL:
        assert torch.equal(found, create_causal_mask(**about, past_key_values=None))
    else:
        assert torch.equal(found, create_bidirectional_mask(**about))


def test_positions_begin_anew_at_each_document(numbers):
    places = document_inputs(model_of("roberta"), numbers)["position_ids"]
    second, third = BORDERS[0]
    expected = [*range(second), *range(third - second), *range(LENGTH - third)]
    assert places[0].tolist() == [place + 2 for place in expected]  # <pad> has id 1
    assert document_inputs(model_of("bert"), numbers)["position_ids"][0].tolist() == expected


def test_documents_end_with_their_end_token():
    ids = np.array([[0, 7, 2, 8, 9, 2, 2], [0, 7, 8, 2, 1, 1, 1]])
    assert document_numbers(ids, 2).tolist() == [[0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_block_is_that_of_its_documents(kind, request):
    """With the heads that train: a padded last block, too, is the sum over its documents, each alone."""
    family = kind.removeprefix("causal ")
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    texts = [f"{text} more" for text in ("a short one", "a bit longer text than that", "and this") * 5]
    end = block_ends(tokenizer)[1]
    if kind in CAUSAL:
        model, data = use_next_token_head(model_of(kind)), next_tokens_of(tokenizer, texts, LENGTH, document_end=end)
    else:
        data = sequences_of(tokenizer, texts, LENGTH, document_end=end, mlm_probability=0.4)
        model = use_masked_only_head(model_of(kind))
    for number in range(len(data)):
        batch = data[number]
        documents, total = batch["documents"][0], 0.0
        for document in documents.unique():
            part = torch.nonzero(documents == document).squeeze(1)
            alone = {"input_ids": batch["input_ids"][:, part]}
            if kind in CAUSAL:
                alone["labels"] = batch["labels"][:, part]
            else:
                inside = torch.isin(batch["masked_positions"][0], part)
                if not inside.any():
                    continue
                alone["masked_positions"] = batch["masked_positions"][:, inside] - part[0]
                alone["labels"] = batch["labels"][:, inside]
            total += model(**alone)["loss"]
        torch.testing.assert_close(model(**batch)["loss"], total, rtol=1e-5, atol=1e-4)


def test_an_attention_or_a_family_that_ignores_masks_is_refused():
    config = AutoConfig.for_model(**config_settings("roberta"))
    require_masks(config, "--document_attention")
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="found --document_attention beside the attention implementation flash_att"):
        require_masks(config, "--document_attention")
    with pytest.raises(UserError, match="found a causal phase for a deberta-v2 model, expected one of roberta, bert"):
        require_masks(AutoConfig.for_model(**config_settings("deberta-v2")), "a causal phase")
