"""Which of transformers' TrainingArguments are honoured, which have no effect and which are refused.

A test compares the tables, for pre-training and for fine-tuning, with the installed transformers, so that every field
an upgrade adds is classified.
"""

import importlib.util
import json
from dataclasses import MISSING, fields
from typing import Any

import torch
from transformers import TrainingArguments

from recipe.system.errors import UserError

# Fields that do in both programs what transformers documents.
HONOURED = """
    output_dir do_train do_eval resume_from_checkpoint seed data_seed full_determinism use_cpu local_rank
    per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps num_train_epochs max_steps
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules
    weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm neftune_noise_alpha
    bf16 tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica disable_tqdm
    include_num_input_tokens_seen report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay eval_on_start save_strategy save_steps save_total_limit
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    deepspeed skip_memory_metrics
"""
HONOURED_IN_FINE_TUNING = "do_predict fp16 label_smoothing_factor save_only_model"

# {field: why it has no effect}; a run prints a warning where one is set.
WITHOUT_EFFECT = {
    "prediction_loss_only": "evaluation stores sums or predictions, as its metrics need",
    "eval_do_concat_batches": "evaluation stores sums or predictions, as its metrics need",
    "eval_use_gather_object": "evaluation gathers numbers, not objects",
    "eval_accumulation_steps": "evaluation stores nothing on the device",
    "include_for_metrics": "metrics are computed from predictions alone",
    "batch_eval_metrics": "metrics are computed over a full split",
    "remove_unused_columns": "a batch has only the model's inputs",
    "label_names": "the name of the labels is fixed",
    "length_column_name": "lengths are computed from the data",
}
WITHOUT_EFFECT_IN_PRETRAINING = {
    "dataloader_drop_last": "every step has a full batch: a batch may span two epochs",
}
WITHOUT_EFFECT_IN_FINE_TUNING = {
    "dataloader_drop_last": "each epoch has every example once",
    "dataloader_persistent_workers": "all epochs are one pass of the data loader, whose workers last as long",
    "train_sampling_strategy": "examples are shuffled, and those of similar length share a step",
}

# {field: (accepted values, why no other is)}.
REFUSED: dict[str, tuple[tuple, str]] = {
    "ignore_data_skip": ((True,), "a resumed run seeks to its step in the data without reading the steps before"),
    "logging_nan_inf_filter": ((False,), "a non-finite loss must be visible"),
    "auto_find_batch_size": ((False,), "the micro-batch size must be set: --per_device_train_batch_size"),
    "average_tokens_across_devices": ((True,), "the loss is a mean over the global batch"),
    "enable_jit_checkpoint": ((False,), "on SIGTERM a checkpoint is always saved"),
    "bf16_full_eval": ((False,), "evaluation runs in the precision of training"),
    "fp16_full_eval": ((False,), "evaluation runs in the precision of training"),
    "restore_callback_states_from_checkpoint": ((False,), "a resumed run restores the state it needs in any case"),
    "save_on_each_node": ((False,), "a checkpoint is saved once, to a folder that all nodes share"),
    "accelerator_config": ((None,), "this project batches data and accumulates gradients itself"),
    "parallelism_config": ((None,), "only data parallelism is supported, with --deepspeed to shard the model's state"),
    "dataloader_in_order": ((True,), "the order of the batches must be reproducible"),
    "dataloader_multiprocessing_context": ((None,), "workers are started by PyTorch's default method"),
    "use_liger_kernel": ((False,), "it has no kernels for these models"),
    "liger_kernel_config": ((None,), "Liger has no kernels for these models"),
    "debug": (("", [], None), "its tools fail on the inputs of these models"),
    "use_cache": ((False,), "training has no key-value cache"),
    "fsdp": ((None, False, "", []), "tied embeddings fail under it; use --deepspeed ds_config/zero2_bf16.json"),
    "fsdp_config": ((None,), "tied embeddings fail under FSDP; use --deepspeed ds_config/zero2_bf16.json"),
}
REFUSED_IN_PRETRAINING: dict[str, tuple[tuple, str]] = {
    "load_best_model_at_end": ((False,), "the result of pre-training is the model of its last step"),
    "metric_for_best_model": ((None,), "pre-training keeps its newest checkpoints, not its best"),
    "greater_is_better": ((None,), "pre-training keeps its newest checkpoints, not its best"),
    "save_only_model": ((False,), "a run cannot be resumed from a checkpoint without its optimizer"),
    "label_smoothing_factor": ((0.0,), "the objective is plain cross-entropy"),
    "fp16": ((False,), "its loss scaling produces infinite gradients, which stop a run here; use --bf16"),
    "do_predict": ((False,), "pre-training has no test data; for predictions of masked words see fill_mask.py"),
    "dataloader_persistent_workers": (
        (False,),
        "a run is one pass of the data loader, whose workers last as long",
    ),
    "train_sampling_strategy": (("random",), "the order is a function of --data_seed alone"),
}
REFUSED_IN_FINE_TUNING: dict[str, tuple[tuple, str]] = {
    "load_best_model_at_end": ((False,), "the score is that of the last step"),
    "metric_for_best_model": ((None,), "the score is that of the last step"),
    "greater_is_better": ((None,), "the score is that of the last step"),
}
# {setting: (another setting, the values of that one with which it has an effect)}.
UNUSED_WITHOUT = {
    "eval_steps": ("eval_strategy", ("steps",)),
    "eval_delay": ("eval_strategy", ("steps", "epoch")),
    "eval_on_start": ("eval_strategy", ("steps", "epoch")),
    "save_steps": ("save_strategy", ("steps",)),
    "logging_steps": ("logging_strategy", ("steps",)),
}

# Packages of optimizers that are not in PyTorch: (part of the name of --optim, module, package to install).
OPTIMIZER_PACKAGES = (
    ("torch_4bit", "torchao", "torchao"),
    ("torch_8bit", "torchao", "torchao"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("npu", "torch_npu", "torch-npu"),
    ("xla", "torch_xla", "torch-xla"),
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("8bit", "bitsandbytes", "bitsandbytes"),
    ("paged", "bitsandbytes", "bitsandbytes"),
    ("lion", "bitsandbytes", "bitsandbytes"),
    ("ademamix", "bitsandbytes", "bitsandbytes"),
    ("rmsprop_bnb", "bitsandbytes", "bitsandbytes"),
)
OBJECTS = ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
NEED_A_MODEL = ("galore", "apollo", "lomo", "adalomo")  # optimizers that need the model, not only its parameters
IGNORE_THEIR_ARGS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor")
MUON = "muon"  # of recipe.train.optimizers
# The settings that --optim_args may have beside it: those of torch.optim.Muon; lr is its peak learning rate.
MUON_SETTINGS = {"lr": float, "momentum": float, "ns_steps": int, "adjust_lr_fn": str}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_settings(args: TrainingArguments, pretraining: bool) -> list[str]:
    """Validates `args` for pre-training or fine-tuning; returns a warning for each setting that was given and has no
    effect. Must be called before transformers' own __post_init__, which replaces defaults.

    Raises UserError for a setting that is refused, with the reason, and for a package that isn't installed.
    """
    refused = REFUSED | (REFUSED_IN_PRETRAINING if pretraining else REFUSED_IN_FINE_TUNING)
    for name, (accepted, reason) in refused.items():
        value = getattr(args, name)
        if value not in accepted and str(value) not in map(str, accepted):
            raise UserError(f"found --{name} {_as_text(value)}: {reason}; leave it out")
    for name in OBJECTS:
        _require_object(name, getattr(args, name))
    if _as_text(args.save_strategy) == "best":
        why = "pre-training keeps its newest checkpoints" if pretraining else "the score is that of the last step"
        raise UserError(f"found --save_strategy best: {why}; use steps, epoch or no")
    _require_packages(args)

    unused = WITHOUT_EFFECT | (WITHOUT_EFFECT_IN_PRETRAINING if pretraining else WITHOUT_EFFECT_IN_FINE_TUNING)
    warnings = [f"--{name} has no effect: {why}" for name, why in unused.items() if _is_given(args, name)]
    for name, (other, values) in UNUSED_WITHOUT.items():
        if _is_given(args, name) and _as_text(getattr(args, other)) not in values:
            warnings.append(f"--{name} has no effect without --{other} {' or '.join(values)}")
    if args.optim_args and _as_text(args.optim) in IGNORE_THEIR_ARGS:
        warnings.append(f"--optim_args has no effect: {_as_text(args.optim)} takes none")
    if args.optim_target_modules and not _as_text(args.optim).startswith(NEED_A_MODEL):
        warnings.append("--optim_target_modules has no effect: only GaLore and APOLLO use it")
    return warnings


def check_optimizer(args: TrainingArguments) -> None:
    """Raises UserError if the optimizer rejects its settings or --optim_args, which it would otherwise do at step 1.
    Must be called after transformers' own __post_init__."""
    usual = args.optim == TrainingArguments.optim and not args.optim_args  # whose numbers are checked as flags
    if args.deepspeed or usual or _as_text(args.optim).startswith(NEED_A_MODEL):
        return
    from transformers import Trainer  # takes seconds

    given = f" with --optim_args {args.optim_args}" if args.optim_args else ""
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        if settings.get("lr") is None:
            settings["lr"] = 0.0  # fine-tuning uses its task's default
        kind([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"found --optim {_as_text(args.optim)}{given}: {str(error).splitlines()[0]}") from error


def muon_settings(optim_args: str | None) -> dict:
    """Parses "momentum=0.9,ns_steps=5" into settings of torch.optim.Muon. Raises UserError for anything else."""
    settings: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"}
    for part in filter(None, (optim_args or "").replace(" ", "").split(",")):
        name, _, value = part.partition("=")
        try:
            settings[name] = MUON_SETTINGS[name](value)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"found --optim_args {part} beside --optim muon, expected some of {', '.join(MUON_SETTINGS)}, as in "
                "momentum=0.95,ns_steps=5"
            ) from error
    try:
        torch.optim.Muon([torch.nn.Parameter(torch.zeros(1, 1))], **settings)
    except ValueError as error:
        raise UserError(f"found --optim_args {optim_args} beside --optim muon: {error}") from error
    return settings


def _require_object(name: str, value: object) -> None:
    """Raises UserError if a setting is given and isn't a JSON object."""
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        content = value
    if content is not None and not isinstance(content, dict):
        raise UserError(f"found --{name} {value}, expected a JSON object like '{{\"key\": 1}}'")


def _require_packages(args: TrainingArguments) -> None:
    optimizer = _as_text(args.optim)
    for part, module, package in OPTIMIZER_PACKAGES:
        if part in optimizer:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"found --optim {optimizer}, whose package is not installed: pip install {package}, or use "
                    "adamw_torch_fused"
                )
            break
    if args.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise UserError("found --deepspeed, whose package is not installed: pip install deepspeed, or set DS_CONFIG=")
    if args.torch_compile_backend and args.torch_compile_backend not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise UserError(f"found --torch_compile_backend {args.torch_compile_backend}, expected one of {known}")
    if args.torch_compile_mode and args.torch_compile_mode not in COMPILE_MODES:
        raise UserError(f"found --torch_compile_mode {args.torch_compile_mode}, expected {' or '.join(COMPILE_MODES)}")


def _is_given(args: TrainingArguments, name: str) -> bool:
    """Whether a setting differs from its default."""
    (field,) = (field for field in fields(args) if field.name == name)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return getattr(args, name) != default


def _as_text(value: object) -> str:
    """A value, the value of an enum member, or a list of these, as it is written on the command line."""
    if isinstance(value, list):
        return " ".join(map(_as_text, value))
    return str(getattr(value, "value", value))
