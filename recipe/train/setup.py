"""The setup of a pre-training run, the same for every objective: checks, config, model, tokenizer, prepared tokens."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, set_seed

from recipe.data.added_tokens import add_tokens
from recipe.data.arguments import DataArguments
from recipe.data.corpus import joined
from recipe.data.inputs import (
    load_corpora,
    load_or_prepare_tokens,
    load_or_train_tokenizer,
    prepared_dir,
    require_separate_folder,
    short_names,
)
from recipe.data.sources import Sources
from recipe.data.tokenizer import load_tokenizer
from recipe.model.arguments import ModelArguments
from recipe.model.checkpoints import require_disk_space
from recipe.model.config import (
    check_length,
    check_tokenizer,
    fit_to_tokenizer,
    is_causal,
    load_config,
    make_causal,
    make_masked,
    require_causal,
    require_family,
    require_masked,
    set_dropout,
)
from recipe.model.loading import build_model, grow_vocabulary, load_model
from recipe.model.modernbert_decoder import copy_weights
from recipe.system.errors import UserError
from recipe.system.hub import require_hub_for_pushing
from recipe.system.paths import ROOT
from recipe.system.runtime import keep_freed_memory, quiet_libraries, warning_of_slow_bf16
from recipe.train.arguments import PretrainArguments
from recipe.train.phases import Phase
from recipe.train.trackers import select_trackers

CONFIGS = ROOT / "configs"
HEAD_START = 0.2  # seconds


def begin(args: PretrainArguments, data: DataArguments) -> Callable[..., None]:
    """Checks what needs neither text nor model: folders, disk space, hub, trackers. Returns the function that prints
    progress and warnings: `print` on the first rank, no output on the others. Raises UserError if a check fails."""
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    if args.device.type == "cpu":
        keep_freed_memory()
        if args.bf16 and (slow := warning_of_slow_bf16()):
            say(f"warning: {slow}")
    require_separate_folder("--output_dir", args.output_dir, data)
    require_disk_space(Path(args.output_dir))
    if args.push_to_hub:
        require_hub_for_pushing()
    select_trackers(args, say)
    for sentence in (*data.ignored(), *args.unused):
        say(f"warning: {sentence}")
    return say


def config_of(model: ModelArguments) -> tuple[str, PreTrainedConfig]:
    """(name for messages, config) of the model that the flags name. Raises UserError if they name none or two, or a
    config that can't be loaded."""
    sources = (model.config_name, model.model_name_or_path, model.model_type)
    if model.model_name_or_path and (model.config_name or model.config_overrides):
        raise UserError("found --model_name_or_path beside --config_name or --config_overrides: pass one or the other")
    name = next((source for source in sources if source), None)
    if name is None:
        raise UserError(
            "found no model: pass --config_name configs/roberta_tiny.json, --model_name_or_path or --model_type"
        )
    if name == model.model_type:
        require_family(name)
        base = CONFIGS / f"{name}_base.json"
        name = str(base) if base.exists() else name
    config = load_config(name, model.config_overrides, **model.hub_options())
    if model.dropout is not None:
        set_dropout(config, model.dropout)
    return name, config


def with_objective(
    config: PreTrainedConfig, name: str, causal: bool, model: ModelArguments, args: PretrainArguments, say: Callable
) -> PreTrainedConfig:
    """`config` for the objective, which a new model takes on, and so does the checkpoint of another objective when it
    is trained further: its weights, the head's included, fit. Raises UserError for such a checkpoint that is only
    evaluated, for a causal config in masked training, and for a family without a causal model."""
    if is_causal(config) == causal:
        return config
    loaded = model.model_name_or_path
    if (loaded and not args.do_train) or (not loaded and not causal):
        (require_causal if causal else require_masked)(config, name)
    config = make_causal(config, name) if causal else make_masked(config)
    if loaded:
        now, seen = ("causal", "those before it") if causal else ("masked", "all of its block")
        say(f"objective  {name} is trained further as a {now} model: from now on a token sees {seen}")
    return config


def model_of(
    model: ModelArguments,
    config: PreTrainedConfig,
    seed: int,
    say: Callable[..., None] = print,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    """The model to train: the one of --model_name_or_path, whose head is initialised from `seed` if the checkpoint has
    none, or a new one initialised from `seed`. A checkpoint gets embeddings for tokens that were added to its
    `tokenizer`, also initialised from `seed`."""
    set_seed(seed)
    if not model.model_name_or_path:
        return build_model(config)
    own = load_config(model.model_name_or_path, **model.hub_options())
    if own.model_type != config.model_type:  # a ModernBERT that becomes causal, or the reverse
        loaded = build_model(config)
        copy_weights(load_model(model.model_name_or_path, own, say, **model.hub_options()), loaded)
        return loaded
    loaded = load_model(model.model_name_or_path, config, say, new_head=True, **model.hub_options())
    if model.add_tokens and tokenizer is not None:
        own = load_tokenizer(tokenizer.name_or_path, (), **model.hub_options())
        grow_vocabulary(loaded, len(tokenizer), len(own))
    return loaded


def prepare_text(
    model: ModelArguments,
    data: DataArguments,
    name: str,
    config: PreTrainedConfig,
    say: Callable[..., None],
    keep_linebreaks: bool = True,
    phases: Sequence[Phase] = (),
) -> tuple[PreTrainedTokenizerFast, Sources]:
    """The tokenizer and the prepared tokens of the data and of `phases`, which are made if they don't exist. Sets the
    vocabulary size and the special tokens of a new model's `config` to the tokenizer's. `name` is the model's, for
    messages.

    Raises UserError if a sequence length or the tokenizer doesn't fit the model, and for unusable text.
    """
    for length in (data.max_seq_length, *(phase.max_seq_length or data.max_seq_length for phase in phases)):
        check_length(config, length, name)
    corpora = load_corpora(data, model, keep_linebreaks, [dataset for phase in phases for dataset in phase.data or ()])
    needs = ("pad",) if is_causal(config) else ("pad", "mask")
    tokenizer = load_or_train_tokenizer(model, config.model_type, joined(corpora.values()), prepared_dir(data), needs)
    if model.model_name_or_path:
        check_tokenizer(config, tokenizer, name)
    elif change := fit_to_tokenizer(config, tokenizer, name):
        say(change)
    if model.add_tokens:
        if not model.model_name_or_path:
            raise UserError(
                "found --add_tokens without --model_name_or_path: a new model's tokenizer is trained on its text"
            )
        added, known = add_tokens(tokenizer, model.add_tokens)
        say(f"tokens     {added:,} of {model.add_tokens} added, {known:,} were known: {len(tokenizer):,} tokens")
    _let_first_ranks_go_ahead()
    prepared = tuple(load_or_prepare_tokens(data, corpus, tokenizer) for corpus in corpora.values())
    return tokenizer, Sources(tuple(corpora), tuple(short_names(corpora)), prepared)


def _let_first_ranks_go_ahead() -> None:
    """Gives the first rank of each node a head start to the work that one of them does: it is the one that shows how
    far that is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(HEAD_START)
