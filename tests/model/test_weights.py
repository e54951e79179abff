"""Every weight of a loaded checkpoint is accounted for: none is silently initialised at random."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import TOKENIZERS, config_settings
from transformers import AutoConfig, AutoModel

import fill_mask
import run_glue
from recipe.model.checkpoints import commit
from recipe.model.config import load_config
from recipe.model.families import FAMILIES, MASKED
from recipe.model.loading import build_model, load_model
from recipe.model.weights import describe_weights, weights_fault
from recipe.system.errors import UserError
from recipe.system.manifest import MANIFEST


def saved(folder, tokenizer, family="roberta", change=lambda weights: None, bare=False):
    """A model's folder; with `bare`, without a language-model head."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**config_settings(family, len(tokenizer), num_hidden_layers=3))
    (AutoModel.from_config(config) if bare else build_model(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(*parts):
    def change(weights):
        for name in [name for name in weights if any(part in name for part in parts)]:
            del weights[name]

    return change


LAST_LAYERS = ("layer.1.", "layer.2.", "layers.1.", "layers.2.")  # of three; families use the singular or the plural


@pytest.mark.parametrize("family", MASKED)
def test_missing_layers_are_refused_and_named_by_number(family, request, tmp_path):
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    folder = saved(tmp_path / "model", tokenizer, family, without(*LAST_LAYERS))
    for new_head in (True, False):
        with pytest.raises(UserError, match=rf"has no weights for encoder layers 1, 2 of a {family} model"):
            load_model(str(folder), load_config(str(folder)), new_head=new_head)
    model = build_model(load_config(str(folder)))
    assert weights_fault(folder, model) == "it has no weights for encoder layers 1, 2"
    whole = saved(tmp_path / "whole", tokenizer, family)
    assert weights_fault(whole, model) is None
    messages = []
    load_model(str(whole), load_config(str(whole)), messages.append)
    assert not messages


@pytest.mark.parametrize("family", MASKED)
def test_a_model_without_a_head_gets_one_from_the_seed_with_a_warning(family, request, tmp_path):
    folder = saved(tmp_path / "model", request.getfixturevalue(TOKENIZERS[family]), family, bare=True)
    config, messages, heads = load_config(str(folder)), [], []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = load_model(str(folder), config, messages.append, new_head=True)
        heads.append(torch.cat([parameter.flatten() for parameter in FAMILIES[family].head(model).parameters()]))
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert "has no language-model head: " in messages[0] and "drawn at random from --seed" in messages[0]
    assert any("pooler" in line for line in messages) == hasattr(AutoModel.from_config(config), "pooler")
    with pytest.raises(UserError, match="has no language-model head, which would be drawn at random"):
        load_model(str(folder), config)


def test_an_incomplete_head_is_refused(bpe, tmp_path):
    folder = saved(tmp_path / "model", bpe, change=without("lm_head.dense"))
    with pytest.raises(UserError, match=r"has no weights for lm_head.dense.bias, lm_head.dense.weight, which would be"):
        load_model(str(folder), load_config(str(folder)), new_head=True)


def test_a_config_with_fewer_layers_is_refused_and_unused_heads_are_left_out(bpe, wordpiece, tmp_path):
    folder = saved(tmp_path / "model", bpe)
    config = load_config(str(folder), "num_hidden_layers=1")
    with pytest.raises(UserError, match="has weights for encoder layers 1, 2, which its config lacks"):
        load_model(str(folder), config)

    def more(weights):
        weights["cls.seq_relationship.weight"] = torch.zeros(2, 16)
        weights["bert.pooler.dense.weight"] = torch.zeros(16, 16)

    folder, messages = saved(tmp_path / "bert", wordpiece, "bert", more), []
    load_model(str(folder), load_config(str(folder)), messages.append)
    assert messages == [
        f"left out   bert.pooler.dense.weight, cls.seq_relationship.weight of {folder}, which this model doesn't use"
    ]


def test_weights_of_another_shape_get_one_line(bpe, tmp_path):
    folder = saved(tmp_path / "model", bpe, change=lambda w: w.update({"lm_head.layer_norm.bias": torch.zeros(7)}))
    with pytest.raises(UserError, match="cannot load the model") as error:
        load_model(str(folder), load_config(str(folder)))
    assert "\n" not in str(error.value)


def test_description_of_weights():
    names = ["a.encoder.layer.11.x", "a.encoder.layer.2.y", "a.layers.2.z", "b", "c", "d", "e"]
    assert describe_weights(names) == "encoder layers 2, 11 and b, c, d and 1 more"
    assert describe_weights(["b"]) == "b" and describe_weights(["a.layers.0.z"]) == "encoder layer 0"


def test_every_script_that_loads_a_checkpoint_refuses(run, bpe, tmp_path, monkeypatch, capsys):
    lacking = str(saved(tmp_path / "lacking", bpe, change=without("encoder.layer.2.")))
    message = "has no weights for encoder layer 2"
    with pytest.raises(UserError, match=message):
        run("--config_name", None, "--tokenizer_name", None, "--model_name_or_path", lacking)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    monkeypatch.setattr("sys.argv", ["fill_mask.py", lacking, "the ___ sat"])
    with pytest.raises(UserError, match=message):
        fill_mask.main()
    (tmp_path / "train.json").write_text(
        "".join(json.dumps({"text": f"t {n}", "label": n % 2}) + "\n" for n in range(8))
    )
    flags = ["--train_file", str(tmp_path / "train.json"), "--output_dir", str(tmp_path / "out"), "--do_train",
             "--prepared_dir", str(tmp_path / "data"), "--use_cpu", "true"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["run_glue.py", "--model_name_or_path", lacking, *flags, "--max_seq_length", "16"])
    with pytest.raises(UserError, match=message):
        run_glue.main()


@pytest.mark.parametrize("manifest", [True, False])
def test_a_damaged_weights_file_gets_one_line(bpe, tmp_path, monkeypatch, manifest):
    folder = tmp_path / "model"
    if manifest:
        commit(saved(tmp_path / "staged", bpe), folder)
    else:
        saved(folder, bpe)
    assert (folder / MANIFEST).exists() == manifest
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\xff" * 30 + content[30:])
    monkeypatch.setattr("sys.argv", ["fill_mask.py", str(folder), "the ___ sat"])
    with pytest.raises(
        UserError, match="is damaged or incomplete: model.safetensors doesn't match" if manifest else "cannot load"
    ) as e:
        fill_mask.main()
    assert "\n" not in str(e.value)
