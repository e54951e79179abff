"""Help texts of the flags that the programs inherit from transformers.TrainingArguments."""

from dataclasses import fields

from transformers import TrainingArguments

from recipe.cli.help_page import REFUSED as REFUSED_PREFIX
from recipe.cli.help_page import WITHOUT_EFFECT as WITHOUT_EFFECT_PREFIX
from recipe.train.settings import (
    REFUSED,
    REFUSED_IN_FINE_TUNING,
    REFUSED_IN_PRETRAINING,
    WITHOUT_EFFECT,
    WITHOUT_EFFECT_IN_FINE_TUNING,
    WITHOUT_EFFECT_IN_PRETRAINING,
)

OURS = {
    "do_train": "Train.",
    "do_eval": "Evaluate on the validation data.",
    "do_predict": "Predict the test data.",
    "output_dir": "Folder of checkpoints, logs and results. Required.",
    "max_steps": "Optimizer steps; -1: as many as --num_train_epochs takes.",
    "num_train_epochs": "Epochs, used where --max_steps is not given; may be a fraction.",
    "per_device_train_batch_size": "Micro-batch size: sequences per device in one forward pass.",
    "gradient_accumulation_steps": "Micro-batches per device and optimizer step.",
    "learning_rate": "Peak learning rate.",
    "warmup_steps": "Steps of linear warm-up; below 1, a share of all steps.",
    "lr_scheduler_kwargs": 'JSON object for the schedule, e.g. {"num_decay_steps": 0.1} for warmup_stable_decay.',
    "optim": "Optimizer: adamw_torch_fused, adafactor or another name in transformers.",
    "optim_args": "Further arguments of the optimizer: name=value,name=value.",
    "weight_decay": "Decoupled weight decay; biases and LayerNorm have none.",
    "adam_beta1": "AdamW: decay rate of the first moment.",
    "adam_beta2": "AdamW: decay rate of the second moment.",
    "adam_epsilon": "AdamW: constant added to the denominator.",
    "max_grad_norm": "Clip gradients to this global norm; 0 turns clipping off.",
    "label_smoothing_factor": "Label smoothing.",
    "seed": "Seed of weights, data order, masks and dropout.",
    "data_seed": "Seed of the data order alone; by default --seed.",
    "full_determinism": "Use deterministic GPU kernels. Slower.",
    "save_strategy": "When to save a checkpoint: steps, epoch or no.",
    "save_steps": "Steps between checkpoints; below 1, a share of all steps.",
    "save_total_limit": "Keep this many of the newest checkpoints and delete older ones; by default all are kept.",
    "save_only_model": "Save no optimizer state: such a checkpoint cannot be resumed from.",
    "resume_from_checkpoint": "Checkpoint to resume from; by default the newest complete one in --output_dir.",
    "eval_strategy": "When to evaluate during training: steps, epoch or no.",
    "eval_steps": "Steps between evaluations; by default --logging_steps.",
    "eval_delay": "No evaluation before this many steps, or epochs with --eval_strategy epoch.",
    "eval_on_start": "Evaluate once before the first step.",
    "per_device_eval_batch_size": "Evaluation batch size per device.",
    "logging_strategy": "When to log: steps, epoch or no.",
    "logging_steps": "Steps between log lines; below 1, a share of all steps.",
    "logging_first_step": "Log the first step, too.",
    "report_to": "Experiment trackers: wandb, tensorboard, ... or none.",
    "run_name": "Name of the run in the tracker.",
    "disable_tqdm": "Hide progress bars.",
    "bf16": "bfloat16 mixed precision: GPUs from Ampere on, TPUs, CPUs.",
    "fp16": "float16 mixed precision with loss scaling, for GPUs without bfloat16.",
    "tf32": "Use TF32 for fp32 matrix products on NVIDIA GPUs; by default as PyTorch is set.",
    "deepspeed": "DeepSpeed configuration file, such as ds_config/zero2_bf16.json. (default: none, that is DDP)",
    "torch_compile": "Compile the model with torch.compile.",
    "torch_compile_backend": "Backend of torch.compile; switches it on. By default inductor.",
    "torch_compile_mode": "Mode of torch.compile, such as max-autotune; switches it on.",
    "activation_checkpointing": "Recompute activations in the backward pass: less memory, more time.",
    "activation_checkpointing_kwargs": "JSON object of options for --activation_checkpointing.",
    "use_cpu": "Train on the CPU even where there is a GPU.",
    "ddp_timeout": "Timeout of collective operations, in seconds.",
    "ddp_backend": "Communication backend: nccl, gloo, ...; by default the device's.",
    "dataloader_num_workers": "Data-loading processes per device; 0 loads in the training process.",
    "dataloader_prefetch_factor": "Batches that each data-loading process prepares in advance.",
    "dataloader_pin_memory": "Load batches into pinned memory, for faster copies to a GPU.",
    "push_to_hub": "Push the model to the hub when it is saved.",
    "hub_model_id": "Repository to push to: user/name; by default named after --output_dir.",
    "hub_token": "Access token for pushing; by default the one that `hf auth login` stored.",
    "hub_private_repo": "Make a new repository private; by default as your organisation sets.",
    "hub_strategy": "What to push, and when: end, every_save, checkpoint or all_checkpoints.",
    "hub_always_push": "Push although the previous push has not finished.",
    "hub_revision": "Branch to push to; by default main.",
    "optim_target_modules": "Modules that GaLore and APOLLO optimize.",
    "neftune_noise_alpha": "Scale of NEFTune noise on the embeddings; by default there is none.",
    "torch_empty_cache_steps": "Steps between emptying the GPU's memory cache: less memory, slower. By default never.",
    "gradient_checkpointing": "Older name of --activation_checkpointing.",
    "gradient_checkpointing_kwargs": "Older name of --activation_checkpointing_kwargs.",
    "log_level": "Log level of the main process: debug, info, warning, error, critical or passive.",
    "log_level_replica": "Log level of the other processes: debug, info, warning, error, critical or passive.",
    "log_on_each_node": "Apply --log_level to the first process of every node, not only to that of the first node.",
    "include_num_input_tokens_seen": "Let the Trainer count input tokens: all, non_padding or no.",
    "skip_memory_metrics": "Leave memory use out of the metrics; measuring it slows training down.",
    "project": "Project in Trackio.",
    "trackio_space_id": "Hugging Face Space of a live Trackio dashboard; by default Trackio logs locally.",
    "trackio_bucket_id": "Bucket of that Space; by default one that Trackio chooses.",
    "trackio_static_space_id": "Hugging Face Space of a read-only Trackio dashboard.",
    "ddp_find_unused_parameters": "DistributedDataParallel's find_unused_parameters; by default off.",
    "ddp_bucket_cap_mb": "DistributedDataParallel's bucket_cap_mb; by default PyTorch's 25 MB.",
    "ddp_broadcast_buffers": "DistributedDataParallel's broadcast_buffers; by default as the Trainer chooses.",
    "ddp_static_graph": "DistributedDataParallel's static_graph; by default off.",
    "local_rank": "Rank on the node, set by launchers.",
}  # fmt: skip


def flag_help(kind: type[TrainingArguments], pretraining: bool) -> dict[str, str]:
    """The help of the fields that `kind` has as TrainingArguments have them, and of those that are refused or have no
    effect, for pre-training or fine-tuning. Other fields keep their own."""
    theirs = {field.name: field.metadata for field in fields(TrainingArguments)}
    inherited = {field.name for field in fields(kind) if theirs.get(field.name) == field.metadata}
    refused = REFUSED | (REFUSED_IN_PRETRAINING if pretraining else REFUSED_IN_FINE_TUNING)
    unused = WITHOUT_EFFECT | (WITHOUT_EFFECT_IN_PRETRAINING if pretraining else WITHOUT_EFFECT_IN_FINE_TUNING)
    return {
        **{name: sentence for name, sentence in OURS.items() if name in inherited},
        **{name: f"{REFUSED_PREFIX}{reason}." for name, (_, reason) in refused.items()},
        **{name: f"{WITHOUT_EFFECT_PREFIX}{reason}." for name, reason in unused.items()},
    }
