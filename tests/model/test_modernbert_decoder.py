"""ModernBERT's two forms: the same weights, and the same predictions where a token sees the same others."""

import torch
from toy import config_settings
from transformers import AutoConfig

from recipe.model.config import is_causal, make_causal, make_masked
from recipe.model.documents import document_inputs
from recipe.model.families import FAMILIES
from recipe.model.loading import build_model
from recipe.model.modernbert_decoder import copy_weights


def test_weights_come_back_as_they_were_and_predict_the_same():
    config = AutoConfig.for_model(**config_settings("modernbert"))
    config.initializer_range = 0.2
    torch.manual_seed(0)
    encoder = build_model(config).eval()
    decoder = build_model(make_causal(config, "toy")).eval()
    assert is_causal(decoder.config) and not is_causal(encoder.config)
    copy_weights(encoder, decoder)
    again = build_model(make_masked(decoder.config)).eval()
    copy_weights(decoder, again)
    kept = again.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in encoder.state_dict().items())
    changed = {key for key, value in config.to_dict().items() if again.config.to_dict()[key] != value}
    assert changed <= {"architectures"}

    ids = torch.randint(5, 300, (2, 32))
    inputs = document_inputs(encoder, torch.zeros_like(ids), causal=True)
    with torch.no_grad():
        hidden = encoder.base_model(ids, **inputs)[0]
        logits = encoder.get_output_embeddings()(FAMILIES["modernbert"].head(encoder)(hidden))
        assert torch.equal(logits, decoder(ids).logits)
