"""Invariant 2: the masked-only head is equivalent to the dense head. Also model configs that don't fit."""

import copy
import json

import pytest
import torch
from torch.nn import functional
from toy import TOKENIZERS, config_settings, sequences_of
from transformers import AutoModelForMaskedLM

from recipe.model.config import check_length, fit_to_tokenizer, load_config, set_dropout
from recipe.model.families import MASKED
from recipe.model.flops import flops_per_token
from recipe.model.heads import use_masked_only_head
from recipe.model.loading import build_model
from recipe.system.errors import UserError


def toy_model(write_config, family, vocab_size, **more):
    torch.manual_seed(0)
    return build_model(load_config(str(write_config(family, vocab_size=vocab_size, **more))))


@pytest.mark.parametrize("family", MASKED)
@pytest.mark.parametrize("which", ["full", "short"])
@pytest.mark.parametrize("rows_at_a_time", [3, 1000])
def test_loss_and_every_gradient_equal_the_dense_heads(
    family, which, rows_at_a_time, write_config, documents, request, monkeypatch
):
    monkeypatch.setattr("recipe.model.heads.LOGITS_BYTES", rows_at_a_time * 4 * 320)
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    sequences = sequences_of(tokenizer, documents, order_seed=None)
    last = len(sequences)
    batch = sequences.__getitems__(range(4) if which == "full" else range(last - 4, last))
    dense = toy_model(write_config, family, len(tokenizer))
    sparse = use_masked_only_head(copy.deepcopy(dense))

    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["masked_positions"], batch["labels"])
    logits = dense(batch["input_ids"], attention_mask=batch.get("attention_mask")).logits
    reference = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    reference.backward()
    loss = sparse(**batch)["loss"]
    loss.backward()

    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=1e-5)
    for (name, p), (_, q) in zip(dense.named_parameters(), sparse.named_parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    sparse.eval()
    hits = (logits.argmax(-1) == labels).sum()
    assert sparse(**batch)["accuracy"] == hits


@pytest.mark.parametrize("family", MASKED)
def test_the_saved_model_is_the_plain_class(family, write_config, tmp_path):
    model = use_masked_only_head(toy_model(write_config, family, 320))
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model)
    ids = torch.randint(5, 300, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, type(model).forward(model, input_ids=ids).logits)


@pytest.mark.parametrize("family", MASKED)
def test_the_head_runs_on_masked_positions_only(family, write_config, documents, request, monkeypatch):
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    model = use_masked_only_head(toy_model(write_config, family, len(tokenizer)))
    batch = sequences_of(tokenizer, documents).__getitems__(range(4))
    projected = []
    project = getattr(functional, "linear_cross_entropy", None)

    def projecting(features, *args, **kwargs):
        projected.append(features.shape)
        return project(features, *args, **kwargs)

    if project:  # torch 2.13; older versions compute the loss from the module's logits, as in evaluation
        monkeypatch.setattr(functional, "linear_cross_entropy", projecting)
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: projected.append(args[0].shape))
    model(**batch)
    model.eval()(**batch)
    assert projected == [(4 * 5, model.get_output_embeddings().in_features)] * 2


@pytest.mark.parametrize("family", MASKED)
def test_no_attention_mask_equals_a_mask_of_ones(family, write_config):
    """Packed blocks have no attention mask; layers with local attention must still apply their window."""
    model = toy_model(write_config, family, 320).eval()
    ids = torch.randint(5, 300, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)


def test_the_embedding_has_a_row_per_token_padded_to_64(write_config, bpe):
    config = load_config(str(write_config(vocab_size=1000)))
    assert "320 rows for the tokenizer's 320 tokens (toy says 1,000)" in fit_to_tokenizer(config, bpe, "toy")
    assert config.vocab_size == 320
    config = load_config(str(write_config(vocab_size=50265)))

    class Large:
        pad_token_id, bos_token_id, eos_token_id = 1, 0, 2

        def __len__(self):
            return 50265

    fit_to_tokenizer(config, Large(), "roberta")
    assert config.vocab_size == 50304


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 100}, "the tokenizer has 320 tokens, toy has 100 embeddings"),
        ({"vocab_size": 319}, "the tokenizer has 320 tokens, toy has 319 embeddings"),
        ({"pad_token_id": 5}, "pad token has id 1, toy says pad_token_id 5"),
        ({"eos_token_id": 3}, "eos token has id 2, toy says eos_token_id 3"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused_with_both_values(write_config, bpe, settings, message):
    with pytest.raises(UserError, match=message):
        fit_to_tokenizer(load_config(str(write_config(**settings))), bpe, "toy")


@pytest.mark.parametrize(("family", "longest"), [("roberta", 64), ("bert", 66), ("modernbert", 66)])
def test_length_must_fit_the_position_table(write_config, family, longest):
    config = load_config(str(write_config(family)))
    check_length(config, longest, "toy")
    with pytest.raises(UserError, match=f"is {longest + 1}, toy has positions for {longest} tokens"):
        check_length(config, longest + 1, "toy")
    model = build_model(config)
    model(torch.full((1, longest), 7))  # the position table has that many rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has model_type 'list'"),
        (json.dumps({"model_type": "nothing"}), "model_type 'nothing'"),
        (json.dumps({"model_type": "gpt2"}), "is a gpt2 model, expected one of roberta, bert"),
        (json.dumps(config_settings("roberta", hiden_size=5)), "unknown key hiden_size"),
        (json.dumps(config_settings("roberta", num_attention_heads=3)), "hidden_size 16 and 3 attention heads"),
        (json.dumps(config_settings("roberta", hidden_size="wide")), "not a valid RobertaConfig"),
    ],
)
def test_bad_configs(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


def test_a_config_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="found no model config at"):
        load_config(str(tmp_path / "none.json"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be reached"):
        load_config("somebody/model")


def test_overrides(write_config):
    path = str(write_config())
    assert load_config(path, "hidden_dropout_prob=0.3,num_hidden_layers=1").num_hidden_layers == 1
    with pytest.raises(UserError, match="config_overrides"):
        load_config(path, "no_such_key=1")
    modern = write_config("modernbert")
    longer = load_config(str(modern), "num_hidden_layers=4,local_attention=8")
    assert [kind == "full_attention" for kind in longer.layer_types] == [True, False, False, True]
    assert longer.local_attention == 8
    own = json.loads(modern.read_text()) | {"layer_types": ["sliding_attention", "full_attention"]}
    modern.write_text(json.dumps(own))
    with pytest.raises(UserError, match="has 3 layers and 2 layer_types"):
        load_config(str(modern), "num_hidden_layers=3")


@pytest.mark.parametrize("family", MASKED)
def test_set_dropout_covers_every_family(family, write_config):
    config = load_config(str(write_config(family)))
    set_dropout(config, 0.5)
    model, ids = build_model(config), torch.full((1, 16), 7)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    modules = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(modules) == {0.5}
    set_dropout(config, 0.0)
    model = build_model(config).train()
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_flops_count_the_matrices_and_attention(write_config):
    model = toy_model(write_config, "roberta", 320)
    length, masked = 64, 10
    encoder = 2 * (4 * 16 * 16 + 2 * 16 * 32)
    head = (320 * 16 + 16 * 16) * masked / length
    assert flops_per_token(model, length, masked) == pytest.approx(6 * (encoder + head) + 12 * 2 * length * 16)
    model = toy_model(
        write_config, "modernbert", 320
    )  # a gated MLP of three matrices; the second layer attends to 4 + 1 + 4
    encoder = 2 * (4 * 16 * 16 + 3 * 16 * 32)
    assert flops_per_token(model, length, masked) == pytest.approx(6 * (encoder + head) + 12 * (length + 9) * 16)
