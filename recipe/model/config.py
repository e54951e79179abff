"""Model configs: loading, validation against tokenizer and sequence length, conversion to causal models and back."""

import json
import re
from pathlib import Path

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from recipe.model.config_check import check_config, check_numbers
from recipe.model.families import FAMILIES, own_key
from recipe.model.modernbert_decoder import DECODER, ENCODER, other_form
from recipe.system.errors import UserError
from recipe.system.hub import is_local, require_hub, require_local_path

HEAD_DROPOUT = re.compile(r"classif|^qa_")  # classifier_dropout; DistilBERT's seq_classif_dropout and qa_dropout
EMBEDDING_MULTIPLE = 64  # of rows in the vocabulary projection, for the fast path of GPU matrix kernels


def require_family(model_type: str) -> None:
    """Raises UserError for a --model_type that isn't in FAMILIES."""
    if model_type not in FAMILIES:
        raise UserError(f"found --model_type {model_type}, expected one of {', '.join(FAMILIES)}")


def load_config(name: str, overrides: str | None = None, **hub_options) -> PreTrainedConfig:
    """Reads a model config from a JSON file, a folder or the hub, or takes a family's default one, and applies
    `overrides` ("key=value,key=value").

    Raises UserError for invalid JSON, a key unknown to the config class, a value out of range, a number of attention
    heads that doesn't divide the width, and a family that isn't in FAMILIES.
    """
    require_local_path(name, "model config")
    path = Path(name).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if is_local(name):
        config = _config_from_file(file, strict=not path.is_dir())
    elif name in FAMILIES:
        config = CONFIG_MAPPING[name]()
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
            "config file, without layer_types, which are derived from it"
        )
    return config


def _overridden(config: PreTrainedConfig, overrides: str, name: str) -> PreTrainedConfig:
    """`config` with "key=value,key=value" applied. layer_types are derived again if they had their default values."""

    def without_kinds() -> PreTrainedConfig:
        return type(config).from_dict({key: value for key, value in config.to_dict().items() if key != "layer_types"})

    kinds = getattr(config, "layer_types", None)
    follow = kinds is not None and without_kinds().layer_types == kinds
    try:
        parts = (part.partition("=") for part in overrides.split(","))
        config.update_from_string(",".join(own_key(config.model_type, key) + eq + value for key, eq, value in parts))
    except ValueError as error:
        raise UserError(f"--config_overrides {overrides!r}: {error}: expected key=value,key=value") from error
    check_numbers(config.to_dict(), name)
    return without_kinds() if kinds is not None and follow and len(kinds) != config.num_hidden_layers else config


def _config_from_file(file: Path, strict: bool) -> PreTrainedConfig:
    """Reads `file`. `strict` refuses unknown keys: in a file that a user edits they are typing mistakes, in a model's
    folder settings of other versions."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the model config {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}: correct it, or start from a file of configs/") from error
    if not isinstance(settings, dict) or settings.get("model_type") not in CONFIG_MAPPING:
        found = settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__
        raise UserError(f"{file} has model_type {found!r}, expected one of {', '.join(FAMILIES)}")
    config_class = CONFIG_MAPPING[settings["model_type"]]
    known = {*config_class().to_dict(), *PreTrainedConfig().to_dict(), *config_class.attribute_map}
    known |= {"torch_dtype", "num_labels"}
    settings = {own_key(settings["model_type"], key): value for key, value in settings.items()}
    if strict and (unknown := sorted(set(settings) - known)):
        raise UserError(f"{file} has the unknown key {', '.join(unknown)}: {config_class.__name__} has no such setting")
    check_numbers(settings, str(file))
    try:
        return config_class.from_dict(settings)
    except Exception as error:  # config classes raise errors of several libraries
        raise UserError(
            f"{file} is not a valid {config_class.__name__}: {str(error).strip().splitlines()[-1].strip()}"
        ) from error


def set_dropout(config: PreTrainedConfig, probability: float) -> None:
    """Sets every dropout of the encoder, whatever its name in the family; those of fine-tuning heads are kept."""
    for name in config.to_dict():
        if "dropout" in name and not HEAD_DROPOUT.search(name):
            setattr(config, name, probability)


def fit_to_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, name: str) -> str | None:
    """Sets the vocabulary size of `config` to that of `tokenizer`, padded to a multiple of EMBEDDING_MULTIPLE.

    Returns a log line about the change, None without one. Raises UserError as `check_tokenizer` does.
    """
    check_tokenizer(config, tokenizer, name)
    rows = -(-len(tokenizer) // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE
    if rows == config.vocab_size:
        return None
    before, config.vocab_size = config.vocab_size, rows
    return f"embedding  {rows:,} rows for the tokenizer's {len(tokenizer):,} tokens ({name} says {before:,})"


def check_tokenizer(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raises UserError, naming both values, where the tokenizer has more tokens than the config's vocabulary or their
    special tokens differ."""
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, {name} has {config.vocab_size} embeddings: "
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
    """The longest sequence that the position table allows, in tokens, including begin and end tokens."""
    return config.max_position_embeddings - first_position(config)


def check_length(config: PreTrainedConfig, length: int, name: str) -> None:
    """Raises UserError where `length` tokens exceed the position table or are fewer than 8."""
    if length > (longest := positions(config)):
        raise UserError(
            f"--max_seq_length is {length}, {name} has positions for {longest} tokens "
            f"(max_position_embeddings {config.max_position_embeddings}): lower the former or raise the latter"
        )
    if length < 8:
        raise UserError(f"--max_seq_length is {length}, expected at least 8 tokens")


def make_causal(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """The config of a decoder with causal attention in place of an encoder's: `config` changed, for ModernBERT that of
    its causal form. Raises UserError for a family without a causal model."""
    if config.model_type == ENCODER:
        config = other_form(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        known = ", ".join(
            family for family in FAMILIES if family == ENCODER or CONFIG_MAPPING[family] in MODEL_FOR_CAUSAL_LM_MAPPING
        )
        raise UserError(f"{name} is a {config.model_type} model, which has no causal form: expected one of {known}")
    if not FAMILIES[config.model_type].is_causal:
        config.is_decoder = True
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    return config


def make_masked(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of an encoder, in which every token attends to all, in place of a causal model's: `config` changed,
    for ModernBERT's decoder that of its masked form."""
    if config.model_type == DECODER:
        config = other_form(config)
    else:
        config.is_decoder = False
    config.architectures = [MODEL_FOR_MASKED_LM_MAPPING[type(config)].__name__]
    return config


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether attention is causal."""
    if config.model_type in FAMILIES and FAMILIES[config.model_type].is_causal:
        return True
    named = (name for name in config.architectures or () if name.endswith(("CausalLM", "LMHeadModel")))
    return bool(getattr(config, "is_decoder", False) or any(named))


def require_masked(config: PreTrainedConfig, name: str) -> None:
    """Raises UserError for a causal model, which cannot predict masked positions from the text after them."""
    if is_causal(config):
        raise UserError(f"{name} is a causal model, expected a masked one: use run_clm.py, or another model")


def require_causal(config: PreTrainedConfig, name: str) -> None:
    """Raises UserError for a masked model, which was trained to attend to later tokens."""
    if not is_causal(config):
        raise UserError(
            f"{name} is a masked model, expected a causal one: use run_mlm.py, or train from scratch with "
            f"--config_name {name}"
        )


def first_position(config: PreTrainedConfig) -> int:
    """The position id of the first token."""
    return FAMILIES[config.model_type].first_position(config)
