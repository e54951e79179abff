"""Model configs: read, checked against tokenizer and sequence length, made causal."""

import json
import re
from pathlib import Path

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from recipe.model.config_check import check_config, check_numbers
from recipe.model.families import FAMILIES
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub, require_local_path

HEAD_DROPOUT = re.compile(r"classif|^qa_")  # classifier_dropout; DistilBERT's seq_classif_dropout and qa_dropout
EMBEDDING_MULTIPLE = 64  # rows of the vocabulary projection: a multiple keeps GPU matrix kernels on their fast path


def require_family(model_type: str) -> None:
    """Raises UserError for a --model_type that isn't in FAMILIES."""
    if model_type not in FAMILIES:
        raise UserError(f"found --model_type {model_type}, expected one of {', '.join(FAMILIES)}, the families here")


def load_config(name: str, overrides: str | None = None, **hub_options) -> PreTrainedConfig:
    """Reads a model config from a JSON file, a folder or the hub, and applies `overrides` ("key=value,key=value").

    Raises UserError for a file that isn't JSON, a key the config class doesn't know, a head count that doesn't divide
    the width, or a family that isn't in FAMILIES.
    """
    require_local_path(name, "model config")
    path = Path(name).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if is_local(name):
        config = _config_from_file(file, strict=not path.is_dir())
    else:
        require_hub(f"model {name}", "a local folder, or a file of configs/ as MODEL")
        try:
            config = AutoConfig.from_pretrained(name, **hub_options)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"cannot load the config of {name}: {reason}: pass a hub id, a folder or a file") from error
    if overrides:
        config = _overridden(config, overrides, name)
    if config.model_type not in FAMILIES:
        raise UserError(f"{name} is a {config.model_type} model, expected one of {', '.join(FAMILIES)}")
    check_config(config, name)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and len(kinds) != config.num_hidden_layers:
        raise UserError(
            f"{name} has {config.num_hidden_layers} layers and {len(kinds)} layer_types: change num_hidden_layers in a "
            "config file, without layer_types, which follow from it"
        )
    return config


def _overridden(config: PreTrainedConfig, overrides: str, name: str) -> PreTrainedConfig:
    """`config` with "key=value,key=value" applied. The kinds of layers follow their number where they did before."""

    def without_kinds() -> PreTrainedConfig:
        return type(config).from_dict({key: value for key, value in config.to_dict().items() if key != "layer_types"})

    kinds = getattr(config, "layer_types", None)
    follow = kinds is not None and without_kinds().layer_types == kinds
    try:
        config.update_from_string(overrides)
    except ValueError as error:
        raise UserError(f"--config_overrides {overrides!r}: {error}: expected key=value,key=value") from error
    check_numbers(config.to_dict(), name)
    return without_kinds() if follow and len(kinds) != config.num_hidden_layers else config


def _config_from_file(file: Path, strict: bool) -> PreTrainedConfig:
    """`strict` refuses unknown keys: in a file that a user edits they are typing mistakes, in a model's folder they are
    other versions' settings."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the model config {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}: mend it, or start from a file of configs/") from error
    if not isinstance(settings, dict) or settings.get("model_type") not in CONFIG_MAPPING:
        found = settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__
        raise UserError(f"{file} has model_type {found!r}, expected one of {', '.join(FAMILIES)}")
    config_class = CONFIG_MAPPING[settings["model_type"]]
    known = {*config_class().to_dict(), *PreTrainedConfig().to_dict(), *config_class.attribute_map}
    known |= {"torch_dtype", "num_labels"}
    if strict and (unknown := sorted(set(settings) - known)):
        raise UserError(f"{file} has the unknown key {', '.join(unknown)}: {config_class.__name__} has no such setting")
    check_numbers(settings, str(file))
    try:
        return config_class.from_dict(settings)
    except Exception as error:  # the strict config classes raise errors of several libraries
        raise UserError(
            f"{file} is no valid {config_class.__name__}: {str(error).strip().splitlines()[-1].strip()}"
        ) from error


def set_dropout(config: PreTrainedConfig, probability: float) -> None:
    """Sets every dropout of the encoder, whatever its family calls it; those of fine-tuning heads stay."""
    for name in config.to_dict():
        if "dropout" in name and not HEAD_DROPOUT.search(name):
            setattr(config, name, probability)


def fit_to_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, name: str) -> str | None:
    """Makes `config` agree with `tokenizer`: one embedding row a token, padded to a multiple of EMBEDDING_MULTIPLE.

    Returns a sentence on what was changed, or None. Raises UserError as `check_tokenizer` does.
    """
    check_tokenizer(config, tokenizer, name)
    rows = -(-len(tokenizer) // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    if rows == config.vocab_size:
        return None
    before, config.vocab_size = config.vocab_size, rows
    return f"embedding  {rows:,} rows for the tokenizer's {len(tokenizer):,} tokens ({name} says {before:,})"


def check_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raises UserError, with both values, where the tokenizer has more tokens than the config has room for or their
    special tokens differ."""
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, {name} has room for {config.vocab_size}: "
            "use the tokenizer it was made for, or set vocab_size"
        )
    for role in ("pad", "bos", "eos"):
        expected, found = getattr(config, f"{role}_token_id", None), getattr(tokenizer, f"{role}_token_id")
        if expected is not None and found is not None and expected != found:
            raise UserError(
                f"the tokenizer's {role} token has id {found}, {name} says {role}_token_id {expected}: "
                f"use the tokenizer it was made for, or correct the config (--config_overrides {role}_token_id={found})"
            )


def positions(config: PreTrainedConfig) -> int:
    """The tokens that a sequence can have, its begin and end included."""
    return config.max_position_embeddings - first_position(config)


def check_length(config: PreTrainedConfig, length: int, name: str) -> None:
    """Raises UserError where sequences of `length` tokens don't fit the position table, or are too short to mask."""
    if length > (room := positions(config)):
        raise UserError(
            f"--max_seq_length is {length}, {name} has positions for {room} tokens "
            f"(max_position_embeddings {config.max_position_embeddings}): shorten the one or raise the other"
        )
    if length < 8:
        raise UserError(f"--max_seq_length is {length}, expected at least 8 tokens")


def make_causal(config: PreTrainedConfig, name: str) -> None:
    """Turns the config of an encoder into that of a decoder, whose tokens see none after them. Raises UserError for a
    family that has no such form."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        known = ", ".join(family for family in FAMILIES if CONFIG_MAPPING[family] in MODEL_FOR_CAUSAL_LM_MAPPING)
        raise UserError(f"{name} is a {config.model_type} model, which has no causal form: expected one of {known}")
    config.is_decoder = True
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether tokens see none after them."""
    named = (name for name in config.architectures or () if name.endswith(("CausalLM", "LMHeadModel")))
    return bool(getattr(config, "is_decoder", False) or any(named))


def require_masked(config: PreTrainedConfig, name: str) -> None:
    """Raises UserError for a causal model: its tokens see none after them, so it has nothing to fill blanks with."""
    if is_causal(config):
        raise UserError(f"{name} is a causal model, expected a masked one: use run_clm.py, or another model")


def require_causal(config: PreTrainedConfig, name: str) -> None:
    """Raises UserError for a checkpoint of a masked model: its tokens have learned from those after them."""
    if not is_causal(config):
        raise UserError(
            f"{name} is a masked model, expected a causal one: use run_mlm.py, or begin anew with --config_name {name}"
        )


def first_position(config: PreTrainedConfig) -> int:
    """The number of the first token's position."""
    return FAMILIES[config.model_type].first_position(config)
