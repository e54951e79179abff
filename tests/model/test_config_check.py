"""Invalid values in a model config, from a file or by overrides, get a one-line error that names the key."""

import pytest

from recipe.model.config import load_config
from recipe.model.families import MASKED
from recipe.system.errors import UserError

WRONG = [
    ("hidden_size", 0, "hidden_size 0, expected at least 1"),
    ("hidden_size", 10**20, "hidden_size 100000000000000000000, expected at least 1 and at most 1,048,576"),
    ("intermediate_size", 0, "intermediate_size 0, expected at least 1"),
    ("num_hidden_layers", -1, "num_hidden_layers -1, expected at least 1"),
    ("num_attention_heads", 0, "num_attention_heads 0, expected at least 1"),
    (
        "num_attention_heads",
        3,
        "hidden_size 16 and 3 attention heads, expected a width divisible by the number of heads",
    ),
    ("vocab_size", 0, "vocab_size 0, expected at least 1"),
    ("max_position_embeddings", 0, "max_position_embeddings 0, expected at least 1"),
    ("pad_token_id", 5000, "pad_token_id 5000, expected an id below vocab_size 320"),
]
OF_BERT_AND_ROBERTA = [
    ("hidden_act", "nope", "hidden_act 'nope', expected one of gelu, "),
    ("hidden_dropout_prob", 2, "hidden_dropout_prob 2(.0)?, expected at least 0 and less than 1"),
    ("attention_probs_dropout_prob", 1.0, "attention_probs_dropout_prob 1.0, expected"),
    ("type_vocab_size", 0, "type_vocab_size 0, expected at least 1"),
    ("layer_norm_eps", -1.0, "layer_norm_eps -1.0, expected more than 0 and at most 1"),
]
CASES = [
    (family, *case)
    for family in MASKED
    for case in WRONG
    if (family, case[0]) != ("deberta-v2", "type_vocab_size")  # which may have no segments
]
CASES += [(family, *case) for family in ("roberta", "bert") for case in OF_BERT_AND_ROBERTA]
CASES += [
    ("modernbert", "hidden_activation", "nope", "hidden_activation 'nope', expected one of gelu"),
    ("modernbert", "attention_dropout", -0.5, "attention_dropout -0.5, expected at least 0"),
    ("modernbert", "local_attention", 0, "local_attention 0, expected at least 2"),
]


@pytest.mark.parametrize(("family", "key", "value", "message"), CASES)
def test_the_error_names_the_key_and_the_expected_range(write_config, family, key, value, message):
    for read in (
        lambda: load_config(str(write_config(family, **{key: value}))),
        lambda: load_config(str(write_config(family)), f"{key}={value}"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read()
        assert f"{family}.json" in str(error.value) and "\n" not in str(error.value)


def test_a_value_of_the_wrong_type_gets_one_line(write_config):
    with pytest.raises(UserError, match="hidden_size' expected int, got str") as error:
        load_config(str(write_config("roberta", hidden_size="x")))
    assert "\n" not in str(error.value)
