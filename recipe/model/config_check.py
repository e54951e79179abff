"""Validation of a model config's values before the model is built."""

from typing import Any

from transformers import PreTrainedConfig

from recipe.cli.numbers import Range, at_least
from recipe.model.families import usual_key
from recipe.system.errors import UserError

WIDTH = at_least(1, 1 << 20)
RANGES: dict[str, Range] = {
    "hidden_size": WIDTH,
    "intermediate_size": at_least(1, 1 << 22),
    "num_hidden_layers": at_least(1, 10_000),
    "num_attention_heads": at_least(1, 1 << 16),
    "vocab_size": at_least(1, 1 << 24),
    "max_position_embeddings": at_least(1, 1 << 24),
    "type_vocab_size": at_least(1, 1 << 16),
    "initializer_range": Range(above=0, most=100),
    "initializer_cutoff_factor": Range(above=0, most=100),
    "layer_norm_eps": Range(above=0, most=1),
    "norm_eps": Range(above=0, most=1),
    "local_attention": at_least(2, 1 << 24),
    "global_attn_every_n_layers": at_least(1, 10_000),
}
DROPOUT = Range(least=0, below=1)
ACTIVATIONS = ("hidden_act", "hidden_activation", "classifier_activation")


def check_config(config: PreTrainedConfig, name: str) -> None:
    """Raises UserError, naming the key, for a value with which a model cannot be built or trained."""
    from transformers.activations import ACT2FN  # takes seconds

    settings = config.to_dict()
    check_numbers(settings, name)
    for key in settings:
        if usual_key(config.model_type, key) in ACTIVATIONS and settings[key] not in ACT2FN:
            raise UserError(f"{name} has {key} {settings[key]!r}, expected one of {', '.join(sorted(ACT2FN))}")
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{name} has hidden_size {config.hidden_size} and {config.num_attention_heads} attention heads, "
            "expected a width divisible by the number of heads: change one of them"
        )
    pad = settings.get("pad_token_id")
    if pad is not None and not 0 <= pad < config.vocab_size:
        raise UserError(f"{name} has pad_token_id {pad}, expected an id below vocab_size {config.vocab_size:,}")


def check_numbers(settings: dict[str, Any], name: str) -> None:
    """Raises UserError for a number out of range in a config's `settings`. Other types are validated by the config's
    class."""
    for key, value in settings.items():
        usual = usual_key(settings.get("model_type"), key)
        expected = DROPOUT if "dropout" in key else RANGES.get(usual)
        if usual == "type_vocab_size" and settings.get("model_type") == "deberta-v2":
            expected = at_least(0, 1 << 16)  # it may have no segments
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is not None and is_number and value not in expected:
            other_name = f" (its key is {key})" if key != usual else ""
            raise UserError(f"{name} has {usual} {value}, expected {expected}{other_name}")
