"""The starting point of a fine-tuning: the checkpoint, its tokenizer and config, and its encoder with a new head."""

import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from recipe.data.tokenizer import fingerprint, load_tokenizer
from recipe.finetune.arguments import RANDOM, CheckpointArguments, StartArguments
from recipe.finetune.glue.labels import SavedLabels, saved_labels
from recipe.finetune.suites import SUITES
from recipe.model.checkpoints import step_of
from recipe.model.config import EMBEDDING_MULTIPLE, check_length, fit_to_tokenizer, is_causal, load_config
from recipe.model.weights import load_weights
from recipe.system.errors import UserError
from recipe.system.files import read_json, sha256_of
from recipe.system.hub import is_local, require_hub, require_local_path
from recipe.system.manifest import MANIFEST, damage
from recipe.train.run_record import read_record

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Origin:
    """The checkpoint of a model's weights. `step` and `tokens_seen` are None if unknown."""

    name: str
    path: str
    step: int | None
    tokens_seen: int | None
    sha256: str | None  # of the weights file, or the commit of a hub model


def origin_of(data: CheckpointArguments) -> Origin:
    """The checkpoint that `data` names. Raises UserError if it is a checkpoint-N that is incomplete or damaged."""
    source = data.model_name_or_path
    if source.startswith(RANDOM):
        return Origin(data.checkpoint_name or source, source, 0, 0, None)
    require_local_path(source, "checkpoint")
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return Origin(data.checkpoint_name or source, source, None, None, None)
    has_manifest = (folder / MANIFEST).exists() or step_of(folder) >= 0
    if has_manifest and (reason := damage_of(folder)):
        raise UserError(f"{folder} is damaged or incomplete: {reason}: choose another checkpoint")
    name = data.checkpoint_name or f"{folder.resolve().parent.name}/{folder.resolve().name}"
    step, tokens = (None, None) if is_fine_tuned(folder) else progress_of(folder)
    weights = folder / WEIGHTS
    sha256 = _sha256(weights, _stamp(weights)) if weights.exists() else None
    return Origin(name, str(folder), step, tokens, sha256)


def is_fine_tuned(folder: Path) -> bool:
    """Whether a folder holds a model with a task head, whose step count is not that of pre-training."""
    names = (read_json(folder / "config.json") or {}).get("architectures")
    heads = tuple(suite.auto_class.removeprefix("AutoModel") for suite in SUITES.values() if suite.auto_class)
    return isinstance(names, list) and any(str(name).endswith(heads) for name in names)


def progress_of(folder: Path) -> tuple[int | None, int | None]:
    """(optimizer step, tokens seen) of a checkpoint, from its trainer_state.json and the run.json of its run; None for
    what is unknown."""
    state = read_json(folder / "trainer_state.json") or {}
    step = _whole_number(state.get("global_step"))
    if step is None:
        step = step_of(folder) if step_of(folder) >= 0 else None
    seen = _whole_number(state.get("num_input_tokens_seen"))
    if step is not None and seen:
        return step, seen
    signature = read_record(folder.resolve().parent if step_of(folder) >= 0 else folder).get("meaning", {})
    batch, length = (_whole_number(signature.get(name)) for name in ("global_batch_size", "max_seq_length"))
    if step is not None and batch and length:
        return step, step * batch * length
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    logged = [(_whole_number(entry.get("tokens_seen")), _whole_number(entry.get("step"))) for entry in entries]
    logged = [(tokens, at) for tokens, at in logged if tokens and at]
    if step is None or not logged:
        return step, None
    return step, round(step * logged[-1][0] / logged[-1][1])


def _whole_number(value: object) -> int | None:
    return value if type(value) is int else None


def tokenizer_of(data: CheckpointArguments, needs: tuple[str, ...] = ("pad", "mask")):
    """The tokenizer of a checkpoint, with the special tokens that it `needs`. Raises UserError if it lacks one, and if
    --tokenizer_name differs from the checkpoint's own."""
    source, named = data.model_name_or_path, data.tokenizer_name
    if source.startswith(RANDOM):
        if not named:
            raise UserError(f"{source} has no tokenizer: pass --tokenizer_name, a checkpoint's folder or a hub id")
        return _tokenizer(named, needs, **data.hub_options())
    tokenizer = _tokenizer(named or source, needs, **data.hub_options())
    own = Path(source).expanduser()
    has_own = named and (own / "tokenizer.json").exists()
    if has_own and fingerprint(tokenizer) != fingerprint(_tokenizer(str(own), needs)):
        raise UserError(
            f"the tokenizer {named} isn't the one that {source} was trained with: leave --tokenizer_name out"
        )
    return tokenizer


@lru_cache(maxsize=4)
def _tokenizer(name: str, needs: tuple[str, ...], **hub_options):
    return load_tokenizer(name, needs, **hub_options)


def config_of(data: StartArguments, tokenizer) -> PreTrainedConfig:
    """The config of an encoder to fine-tune. Raises UserError as `config_with` does, for a causal model, and if
    --max_seq_length doesn't fit it."""
    config, name = config_with(data, tokenizer), _config_name(data)
    if is_causal(config):
        raise UserError(f"{name} is a causal model, whose first token attends to no other: expected an encoder")
    check_length(config, data.max_seq_length, name)
    return config


def config_with(data: CheckpointArguments, tokenizer) -> PreTrainedConfig:
    """The config of the checkpoint, masked or causal. Raises UserError if the tokenizer doesn't fit it."""
    source, name = data.model_name_or_path, _config_name(data)
    if source.startswith(RANDOM):
        config = load_config(name, **data.hub_options())
        fit_to_tokenizer(config, tokenizer, name)
    else:
        config = _config(name, **data.hub_options())
        fit_to_tokenizer(copy.deepcopy(config), tokenizer, name)
        if config.vocab_size - len(tokenizer) >= 2 * EMBEDDING_MULTIPLE:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens, {name} was trained with about {config.vocab_size}: "
                "use the tokenizer it was trained with"
            )
    return config


def _config_name(data: CheckpointArguments) -> str:
    return data.config_name or data.model_name_or_path.removeprefix(RANDOM)


def check_model(data: StartArguments) -> Origin:
    """The checkpoint that `data` names. Raises UserError if its tokenizer or --max_seq_length doesn't fit."""
    origin = origin_of(data)
    config_of(data, tokenizer_of(data))
    return origin


def saved_labels_of(data: StartArguments) -> SavedLabels | None:
    """The labels of the checkpoint that the weights come from; None if it has no classification head."""
    if data.weights.startswith(RANDOM):
        return None
    return saved_labels(_config(data.weights, **data.hub_options()), data.weights)


def with_labels(config: PreTrainedConfig, labels: tuple[str, ...]) -> PreTrainedConfig:
    """`config`, set to one output per label; no labels mean a regression with one output."""
    config.num_labels = len(labels) or 1
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    return config


def _config(name: str, **hub_options) -> PreTrainedConfig:
    require_local_path(name, "model")
    if not is_local(name):
        require_hub(f"model {name}", "a local folder as RUN (--model_name_or_path)")
    try:
        return AutoConfig.from_pretrained(name, **hub_options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the config of {name}: {reason}: pass a checkpoint's folder or hub id") from error


def build_model(head, data: StartArguments, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """The encoder of the checkpoint with a new head, in fp32. `head` is an AutoModelFor... class; `seed` initialises
    it.

    With the prefix random: all weights are initialised from `seed`. Raises UserError if weights of the encoder are
    missing: transformers would initialise them at random.
    """
    torch.manual_seed(seed)
    if data.model_name_or_path.startswith(RANDOM):
        return head.from_config(config)
    source = data.weights
    model, _, _ = load_weights(
        head,
        source,
        config,
        # The head of an MNLI model has three outputs: another task needs a new output layer.
        new_head=source != data.model_name_or_path,
        ignore_mismatched_sizes=data.ignore_mismatched_sizes,
        damage_of=damage_of,
        **data.hub_options(),
    )
    return model


def damage_of(folder: Path) -> str | None:
    """recipe.system.manifest.damage, cached until the manifest changes: hashing a checkpoint takes seconds."""
    return _damage(folder, _stamp(folder / MANIFEST))


@lru_cache(maxsize=4096)
def _damage(folder: Path, stamp) -> str | None:
    return damage(folder)


@lru_cache(maxsize=4096)
def _sha256(file: Path, stamp) -> str:
    return sha256_of(file)


def _stamp(file: Path) -> tuple[int, int] | None:
    """(modification time, size) of a file, the key of the caches above; None if it is missing."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
