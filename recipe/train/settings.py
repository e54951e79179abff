"""What becomes of each of transformers' TrainingArguments here: honoured, without effect, or refused.

One table for pre-training and one for fine-tuning; a test compares them with the installed transformers, so that an
upgrade's new field is decided on before anyone can set it in vain.
"""

import importlib.util
import json
from dataclasses import MISSING, fields

import torch
from transformers import TrainingArguments

from recipe.system.errors import UserError

# Fields that do in both what transformers says of them.
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

# {field: why it changes nothing}; a run says so where one is set.
WITHOUT_EFFECT = {
    "prediction_loss_only": "evaluation decides by itself what it keeps",
    "eval_do_concat_batches": "evaluation decides by itself what it keeps",
    "eval_use_gather_object": "evaluation gathers sums or numbers, no objects",
    "eval_accumulation_steps": "evaluation keeps nothing on the device",
    "include_for_metrics": "metrics need nothing more than predictions",
    "batch_eval_metrics": "metrics are those of a whole split",
    "remove_unused_columns": "a batch has only what the model takes",
    "label_names": "labels have one name here",
    "length_column_name": "lengths are counted",
}
WITHOUT_EFFECT_IN_PRETRAINING = {
    "dataloader_drop_last": "every batch is full: it continues into the next epoch",
}
WITHOUT_EFFECT_IN_FINE_TUNING = {
    "dataloader_drop_last": "each epoch has every example once",
    "dataloader_persistent_workers": "a run is one pass, whose workers live as long as it does",
    "train_sampling_strategy": "examples are shuffled, and those of similar length share a step",
}

# {field: (the values that are fine, why no other)}.
REFUSED: dict[str, tuple[tuple, str]] = {
    "ignore_data_skip": ((True,), "the data seeks to the step that a run resumes at by itself"),
    "logging_nan_inf_filter": ((False,), "a loss that isn't finite must be seen"),
    "auto_find_batch_size": ((False,), "the micro-batch decides what one device holds; set it"),
    "average_tokens_across_devices": ((True,), "the loss is a mean over the global batch"),
    "enable_jit_checkpoint": ((False,), "SIGTERM saves a checkpoint in any case"),
    "bf16_full_eval": ((False,), "evaluation runs in the precision of training"),
    "fp16_full_eval": ((False,), "evaluation runs in the precision of training"),
    "restore_callback_states_from_checkpoint": ((False,), "a resumed run restores what it needs by itself"),
    "save_on_each_node": ((False,), "a checkpoint is saved once, to a folder that all nodes share"),
    "accelerator_config": ((None,), "batches are cut and gradients accumulated by the recipe itself"),
    "parallelism_config": ((None,), "each device has the whole model, or its part by --deepspeed"),
    "dataloader_in_order": ((True,), "a run must see its batches in their order"),
    "dataloader_multiprocessing_context": ((None,), "workers are started as PyTorch does it by default"),
    "use_liger_kernel": ((False,), "it has no kernels for these models"),
    "liger_kernel_config": ((None,), "Liger has no kernels for these models"),
    "debug": (("", [], None), "its tools stop at the inputs of these models"),
    "use_cache": ((False,), "training has nothing to cache"),
    "fsdp": ((None, False, "", []), "tied embeddings fail under it; use --deepspeed ds_config/zero2_bf16.json"),
    "fsdp_config": ((None,), "tied embeddings fail under FSDP; use --deepspeed ds_config/zero2_bf16.json"),
}
REFUSED_IN_PRETRAINING: dict[str, tuple[tuple, str]] = {
    "load_best_model_at_end": ((False,), "pre-training ends with its last step"),
    "metric_for_best_model": ((None,), "pre-training keeps its newest checkpoints, not its best"),
    "greater_is_better": ((None,), "pre-training keeps its newest checkpoints, not its best"),
    "save_only_model": ((False,), "a checkpoint without its optimizer cannot be continued"),
    "label_smoothing_factor": ((0.0,), "the objective is plain cross-entropy"),
    "fp16": (
        (False,),
        "its loss scaling meets infinite gradients on purpose, which stop a run here; use --bf16",
    ),
    "do_predict": ((False,), "there is nothing to predict; see fill_mask.py"),
    "dataloader_persistent_workers": ((False,), "a run is one pass, whose workers live as long as it does"),
    "train_sampling_strategy": (("random",), "the order is the recipe's own"),
}
REFUSED_IN_FINE_TUNING: dict[str, tuple[tuple, str]] = {
    "load_best_model_at_end": ((False,), "the score is that of the last step"),
    "metric_for_best_model": ((None,), "the score is that of the last step"),
    "greater_is_better": ((None,), "the score is that of the last step"),
}
UNUSED_WITHOUT = {  # a setting that is read only where another one has one of these values
    "eval_steps": ("eval_strategy", ("steps",)),
    "eval_delay": ("eval_strategy", ("steps", "epoch")),
    "eval_on_start": ("eval_strategy", ("steps", "epoch")),
    "save_steps": ("save_strategy", ("steps",)),
    "logging_steps": ("logging_strategy", ("steps",)),
}

# Packages of optimizers that PyTorch doesn't have: (part of the name of --optim, module, what to install).
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
NEED_A_MODEL = ("galore", "apollo", "lomo", "adalomo")  # these optimizers take more than parameters
IGNORE_THEIR_ARGS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_settings(args: TrainingArguments, pretraining: bool) -> list[str]:
    """A sentence for each setting of `args` that was given and changes nothing. Call it before transformers' own
    __post_init__, which fills settings in.

    Raises UserError for one that can't be honoured, with the reason, and for a package that isn't installed.
    """
    refused = REFUSED | (REFUSED_IN_PRETRAINING if pretraining else REFUSED_IN_FINE_TUNING)
    for name, (fine, reason) in refused.items():
        value = getattr(args, name)
        if value not in fine and str(value) not in map(str, fine):
            raise UserError(f"found --{name} {_word(value)}: {reason}; leave it out")
    for name in OBJECTS:
        _require_object(name, getattr(args, name))
    if _word(args.save_strategy) == "best":
        why = "pre-training keeps its newest checkpoints" if pretraining else "the score is that of the last step"
        raise UserError(f"found --save_strategy best: {why}; use steps, epoch or no")
    _require_packages(args)

    unused = WITHOUT_EFFECT | (WITHOUT_EFFECT_IN_PRETRAINING if pretraining else WITHOUT_EFFECT_IN_FINE_TUNING)
    said = [f"--{name} changes nothing: {why}" for name, why in unused.items() if _is_given(args, name)]
    for name, (other, values) in UNUSED_WITHOUT.items():
        if _is_given(args, name) and _word(getattr(args, other)) not in values:
            said.append(f"--{name} changes nothing without --{other} {' or '.join(values)}")
    if args.optim_args and _word(args.optim) in IGNORE_THEIR_ARGS:
        said.append(f"--optim_args changes nothing: {_word(args.optim)} takes none")
    if args.optim_target_modules and not _word(args.optim).startswith(NEED_A_MODEL):
        said.append("--optim_target_modules changes nothing: GaLore and APOLLO alone read it")
    return said


def check_optimizer(args: TrainingArguments) -> None:
    """Raises UserError where --optim refuses its settings or --optim_args, which it would otherwise do at step 1. Call
    it after transformers' own __post_init__."""
    from transformers import Trainer

    if args.deepspeed or _word(args.optim).startswith(NEED_A_MODEL):
        return
    given = f" with --optim_args {args.optim_args}" if args.optim_args else ""
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        if settings.get("lr") is None:
            settings["lr"] = 0.0  # fine-tuning takes its task's
        kind([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(f"found --optim {_word(args.optim)}{given}: {str(error).splitlines()[0]}") from error


def _require_object(name: str, value: object) -> None:
    """Raises UserError where a setting is neither a JSON object nor absent."""
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        content = value
    if content is not None and not isinstance(content, dict):
        raise UserError(f"found --{name} {value}, expected a JSON object like '{{\"key\": 1}}'")


def _require_packages(args: TrainingArguments) -> None:
    optimizer = _word(args.optim)
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


def _word(value: object) -> str:
    """An enum's value, several of them, or any other value, as text."""
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return str(getattr(value, "value", value))
