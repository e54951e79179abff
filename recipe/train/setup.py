"""The setup of a pre-training run, the same for every objective: checks, config, model, tokenizer, prepared tokens."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, set_seed

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
from recipe.model.loading import build_model, load_model
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
) -> None:
    """Sets `config` to the objective, which a new model takes on, and so does the checkpoint of another objective when
    it is trained further: its weights, the head's included, fit as they are. Raises UserError for such a checkpoint
    that is only evaluated, for a causal config in masked training, and for a family without a causal model."""
    if is_causal(config) == causal:
        return
    loaded = model.model_name_or_path
    if (loaded and not args.do_train) or (not loaded and not causal):
        (require_causal if causal else require_masked)(config, name)
    if causal:
        make_causal(config, name)
    else:
        make_masked(config)
    if loaded:
        now, seen = ("causal", "those before it") if causal else ("masked", "all of its block")
        say(f"objective  {name} is trained further as a {now} model: from now on a token sees {seen}")


def model_of(
    model: ModelArguments, config: PreTrainedConfig, seed: int, say: Callable[..., None] = print
) -> PreTrainedModel:
    """The model to train: the one of --model_name_or_path, whose head is initialised from `seed` if the checkpoint has
    none, or a new one initialised from `seed`."""
    set_seed(seed)
    if model.model_name_or_path:
        return load_model(model.model_name_or_path, config, say, new_head=True, **model.hub_options())
    return build_model(config)


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
