"""Tokens added to a checkpoint's tokenizer, and the rows that its model gets for them."""

import copy
import hashlib

import pytest
import torch
from safetensors.torch import load_file
from toy import config_settings
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from recipe.data.added_tokens import add_tokens
from recipe.model.families import MASKED
from recipe.model.loading import build_model, grow_vocabulary
from recipe.system.errors import UserError


def test_an_added_word_is_one_token_where_it_is_a_whole_word(bpe, wordpiece, tmp_path):
    (tmp_path / "words.txt").write_text("xylophone\n\n xylophone \nthe\nzebra crossing\n")
    for tokenizer in map(copy.deepcopy, (bpe, wordpiece)):
        before = len(tokenizer)
        added, known = add_tokens(tokenizer, str(tmp_path / "words.txt"))
        assert (added, known) == (2, 1) and len(tokenizer) == before + 2
        (token,) = tokenizer("xylophone", add_special_tokens=False)["input_ids"]
        assert token == before
        plain = tokenizer("a cat", add_special_tokens=False)["input_ids"]
        text = tokenizer("a xylophone cat", add_special_tokens=False)["input_ids"]
        assert text == [plain[0], token, *plain[1:]]  # neither a lone space nor another piece
        assert token not in tokenizer("xylophones", add_special_tokens=False)["input_ids"]
        assert before + 1 in tokenizer("a zebra crossing", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the tokens"), (b"\n \n", "found no token in"), (b"caf\xe9\n", "isn't UTF-8")],
)
def test_mistakes(bpe, tmp_path, content, message):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        add_tokens(copy.deepcopy(bpe), str(file))


@pytest.mark.parametrize("family", MASKED)
def test_new_rows_lie_around_the_mean_of_the_old_ones_which_stay(family):
    torch.manual_seed(0)
    model = build_model(AutoConfig.for_model(**config_settings(family, 320)))
    old = model.get_input_embeddings().weight.detach().clone()
    grow_vocabulary(model, 330, 300)  # rows 300 to 319 were padding
    new = model.get_input_embeddings().weight.detach()
    assert new.shape[0] == model.config.vocab_size == 384 and torch.equal(new[:300], old[:300])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    mean, spread = old[:300].mean(0), old[:300].std(0)
    assert ((new[300:] - mean).abs() < spread).all() and new[300:].std(0).min() > 0
    bias = model.get_output_embeddings().bias
    assert len(bias) == 384 and torch.allclose(bias[300:], bias[:300].mean())


def test_a_checkpoint_gets_words_of_a_domain_and_resumes(run, tmp_path):
    run()
    (tmp_path / "words.txt").write_text("xylophone\nzebra\n")
    flags = (
        "--config_name", None, "--tokenizer_name", None, "--vocab_size", None, "--model_name_or_path", "run",
        "--add_tokens", "words.txt",
    )  # fmt: skip
    code, printed = run(*flags, "--output_dir", "whole")
    assert code == 0 and "2 of words.txt added, 0 were known: 302 tokens" in printed
    model, tokenizer = (kind.from_pretrained(tmp_path / "whole") for kind in (AutoModelForMaskedLM, AutoTokenizer))
    assert len(tokenizer) == 302 and model.config.vocab_size == 320
    assert len(tokenizer("zebra", add_special_tokens=False)["input_ids"]) == 1
    run(*flags, "--output_dir", "halves", "--max_steps", "4", "--save_steps", "1")
    for step in (3, 4):
        for file in (tmp_path / "halves" / f"checkpoint-{step}").iterdir():
            file.unlink()
        (tmp_path / "halves" / f"checkpoint-{step}").rmdir()
    assert run(*flags, "--output_dir", "halves", "--save_steps", "1")[0] == 0
    bits = [
        hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).digest() for name in ("whole", "halves")
    ]
    assert bits[0] == bits[1] and len(load_file(tmp_path / "whole" / "model.safetensors"))
    assert (
        "0 of words.txt added, 2 were known"
        in run(*flags[:7], "whole", *flags[8:], "--output_dir", "more", "--max_steps", "1")[1]
    )
    with pytest.raises(UserError, match="found --add_tokens without --model_name_or_path"):
        run("--add_tokens", "words.txt", "--output_dir", "new")
