"""Arguments of every fine-tuning: the checkpoint, the length and number of examples, and TrainingArguments."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.finetune.suite import TuningSettings
from recipe.launch.world import announced_world, require_world, select_device
from recipe.model.arguments import HubArguments
from recipe.model.checkpoints import require_disk_space
from recipe.system.errors import UserError
from recipe.system.hub import require_hub_for_pushing
from recipe.train.deepspeed_config import check_deepspeed
from recipe.train.flag_help import flag_help
from recipe.train.schedules import SCHEDULE_NAMES, own_schedules_allowed
from recipe.train.settings import check_optimizer, check_settings

RANDOM = "random:"  # prefix of a model with fresh weights
# TrainingArguments that determine what a fine-tuning computes; they are part of its record.
SETTINGS = (
    "per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps warmup_steps "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor bf16 fp16"
)


@dataclass
class CheckpointArguments(HubArguments):
    """The checkpoint that is evaluated."""

    model_name_or_path: str = option(
        "", "Checkpoint: a folder or hub id, or random:configs/x.json for fresh weights. Required."
    )
    config_name: str | None = option(None, "Config; by default the checkpoint's.")
    tokenizer_name: str | None = option(None, "Tokenizer: a folder or hub id; by default the checkpoint's.")
    use_fast_tokenizer: bool = option(True, "Must be on: only fast tokenizers are supported.")
    checkpoint_name: str | None = option(
        None, "Name of the checkpoint in tables; by default the last two parts of its path."
    )

    def __post_init__(self):
        if not self.use_fast_tokenizer:
            raise UserError("found --use_fast_tokenizer False: only fast tokenizers are supported; leave it out")
        if not self.model_name_or_path:
            raise UserError("found no --model_name_or_path: pass a checkpoint's folder, a hub id or random:CONFIG.json")

    @property
    def title(self) -> str:
        """The task's name in tables."""
        raise NotImplementedError

    @property
    def weights(self) -> str:
        """Where the weights come from: the checkpoint, or a model that was fine-tuned from it."""
        return self.model_name_or_path


@dataclass
class StartArguments(CheckpointArguments):
    """The checkpoint that fine-tuning starts from, and how much of the data it uses."""

    max_seq_length: int = option(128, "Tokens per example, special tokens included; longer examples are truncated.")
    pad_to_max_length: bool = option(False, "Pad examples to --max_seq_length; off, to the longest of their batch.")
    overwrite_cache: bool = option(False, "Tokenise again, even if tokenised examples exist.")
    prepared_dir: str = option("data", "Folder of tokenised examples.")
    max_train_samples: int | None = option(None, "Train on only the first N examples; by default all.")
    max_eval_samples: int | None = option(None, "Evaluate on only the first N examples; by default all.")
    max_predict_samples: int | None = option(None, "Predict only the first N test examples; by default all.")
    ignore_mismatched_sizes: bool = option(False, "Initialise weights whose shape is not the checkpoint's.")


@dataclass
class FineTuneArguments(TrainingArguments):
    """Transformers' TrainingArguments. Batch size, learning rate and epochs default to those of the task."""

    output_dir: str = option("", "Folder of checkpoints, logs and results. Required.")
    per_device_train_batch_size: int | None = option(
        None, "Micro-batch size; by default the task's batch size divided by accumulation x devices."
    )
    per_device_eval_batch_size: int = option(64, "Evaluation batch size per device.")
    learning_rate: float | None = option(None, "Peak learning rate; by default the task's.")
    num_train_epochs: float | None = option(None, "Epochs; by default the task's.")
    lr_scheduler_type: str = option("linear", f"Shape of the learning rate after warm-up: {', '.join(SCHEDULE_NAMES)}.")
    warmup_steps: float = option(0.06, "Steps of linear warm-up; below 1, a share of all steps.")
    save_strategy: str = option(
        "no", "When to save a checkpoint: steps, epoch or no. The fine-tuned model is saved in any case."
    )
    logging_steps: float = option(50, "Steps between log lines; below 1, a share of all steps.")
    save_model: bool = option(True, "Save the fine-tuned model, its tokenizer and a model card in --output_dir.")
    allow_changed: str = option(
        "", "Settings that may differ from those of the run that is resumed, separated by commas."
    )
    ignore_data_skip: bool = option(True, "Always on: the data loader seeks to the step at which a run resumes.")
    logging_nan_inf_filter: bool = option(False, "Always off: a non-finite loss must be visible.")

    @classmethod
    def flag_help(cls) -> dict[str, str]:
        """The help of the flags that transformers defines."""
        return flag_help(cls, pretraining=False)

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("found no --output_dir: name the folder of the result")
        require_disk_space(Path(self.output_dir))
        require_numbers(vars(self))
        self.unused = check_settings(self, pretraining=False)
        if self.fp16 and not torch.cuda.is_available():
            raise UserError("found --fp16 without a GPU: use --bf16, or leave it out")
        world = announced_world()
        if self.deepspeed:
            check_deepspeed(self, world.size)
        select_device(self, world)
        with own_schedules_allowed(self):
            super().__post_init__()
        require_world(self, world)
        check_optimizer(self)

    def fill_defaults(self, settings: TuningSettings) -> None:
        """Fills in settings that were not given with the task's. The task's batch size is the global one: sequences per
        optimizer step, whatever the number of accumulation steps and devices. Raises UserError if they don't divide it.
        """
        if self.per_device_train_batch_size is None:
            devices = self.gradient_accumulation_steps * self.world_size
            if settings.batch_size % devices:
                raise UserError(
                    f"a batch of {settings.batch_size} doesn't divide by {devices} accumulation steps x devices: "
                    "pass --per_device_train_batch_size"
                )
            self.per_device_train_batch_size = settings.batch_size // devices
        if self.learning_rate is None:
            self.learning_rate = settings.learning_rate
        if self.num_train_epochs is None:
            self.num_train_epochs = settings.epochs


def check_start(data: StartArguments, args: FineTuneArguments, sweep: str) -> None:
    """Raises UserError for mistakes that can be seen before reading data; `sweep` is the script that runs sweeps."""
    if not (args.do_train or args.do_eval or args.do_predict):
        raise UserError("found none of --do_train, --do_eval and --do_predict: pass at least one")
    if args.n_gpu > 1:
        raise UserError(
            f"found {args.n_gpu} GPUs and one process: set CUDA_VISIBLE_DEVICES=0, start one process per GPU "
            f"with torchrun, or let {sweep} run one job per GPU"
        )
    if args.do_train and Path(args.output_dir).expanduser().resolve() == Path(data.weights).expanduser().resolve():
        raise UserError(f"found --output_dir {args.output_dir}, which is the checkpoint's own folder: choose another")
    if args.push_to_hub:
        require_hub_for_pushing()
