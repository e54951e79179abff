"""What every fine-tuning can be told: where it starts, how its examples are cut, and the TrainingArguments."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.finetune.tasks import Recipe
from recipe.launch.world import announced_world, require_world, select_device
from recipe.model.arguments import HubArguments
from recipe.model.checkpoints import require_disk_space
from recipe.system.errors import UserError
from recipe.system.hub import require_hub
from recipe.train.deepspeed_config import check_deepspeed
from recipe.train.schedules import own_schedules_allowed
from recipe.train.settings import check_optimizer, check_settings

RANDOM = "random:"  # the prefix of a model that begins with fresh weights
# Settings of TrainingArguments that decide what a fine-tuning computes; the record keeps them.
SETTINGS = (
    "per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps warmup_steps "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor bf16 fp16"
)


@dataclass
class StartArguments(HubArguments):
    """The checkpoint that a fine-tuning starts from, and how much of the data it takes."""

    max_seq_length: int = option(128, "Tokens an example; longer ones are cut.")
    pad_to_max_length: bool = option(False, "Pad to max_seq_length; off, to the longest example of a batch.")
    overwrite_cache: bool = option(False, "Tokenise again.")
    prepared_dir: str = option("data", "Where tokenised examples are kept.")
    max_train_samples: int | None = option(None, "Use only the first so many training examples.")
    max_eval_samples: int | None = option(None, "Use only the first so many dev examples.")
    max_predict_samples: int | None = option(None, "Predict only the first so many test examples.")
    model_name_or_path: str | None = option(
        None, "Checkpoint folder or hub id; random:configs/x.json for fresh weights of that architecture."
    )
    config_name: str | None = option(None, "Config, if it isn't the model's.")
    tokenizer_name: str | None = option(None, "Tokenizer, if it isn't the model's.")
    use_fast_tokenizer: bool = option(True, "Only fast tokenizers are supported.")
    ignore_mismatched_sizes: bool = option(False, "Draw weights afresh whose shapes don't fit.")
    checkpoint_name: str | None = option(None, "The checkpoint's name in tables; by default its path's last two.")

    def __post_init__(self):
        if not self.use_fast_tokenizer:
            raise UserError("found --use_fast_tokenizer False: only fast tokenizers are supported; leave it out")
        if not self.model_name_or_path:
            raise UserError("found no --model_name_or_path: pass a checkpoint's folder, a hub id or random:CONFIG.json")

    @property
    def weights(self) -> str:
        """Where the weights come from: the checkpoint, or a model that was fine-tuned from it before."""
        return self.model_name_or_path


@dataclass
class FineTuneArguments(TrainingArguments):
    """All of transformers' TrainingArguments. Batch, learning rate and epochs default to the task's own settings."""

    per_device_train_batch_size: int | None = option(None, "Micro-batch; by default the task's batch size.")
    per_device_eval_batch_size: int = option(64, "Examples an evaluation batch.")
    learning_rate: float | None = option(None, "Peak learning rate; by default the task's.")
    num_train_epochs: float | None = option(None, "Passes over the training data; by default the task's.")
    lr_scheduler_type: str = option("linear", "transformers' names, or one of SCHEDULES in recipe/train/schedules.py.")
    warmup_steps: float = option(0.06, "Steps of linear warm-up; below 1, their share of all (RoBERTa's 6 %).")
    save_strategy: str = option("no", "Off: the score and the fine-tuned model are what stays.")
    logging_steps: float = option(50, "Steps between two logs of the loss.")
    save_model: bool = option(
        True, "Leave the fine-tuned model, its tokenizer and a card in output_dir. A sweep keeps no models."
    )
    allow_changed: str = option("", "Settings that may differ from the run that is continued, separated by commas.")
    ignore_data_skip: bool = option(True, "Always on here: the data seeks to the step that a run resumes at.")
    logging_nan_inf_filter: bool = option(False, "Always off here: a loss that isn't finite must be seen.")

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

    def fill_defaults(self, settings: Recipe) -> None:
        """Fills in what wasn't given from the task's settings. The task's batch is the global one: it is reached by
        whatever accumulation and devices there are."""
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
    """What can be known before anything is read; `sweep` is the script that runs one job per GPU."""
    if not (args.do_train or args.do_eval or args.do_predict):
        raise UserError("found none of --do_train, --do_eval and --do_predict: pass what to do")
    if args.n_gpu > 1:
        raise UserError(
            f"found {args.n_gpu} GPUs and one process: choose one by CUDA_VISIBLE_DEVICES=0, start one process per GPU "
            f"with torchrun, or let {sweep} run one job per GPU"
        )
    if args.do_train and Path(args.output_dir).expanduser().resolve() == Path(data.weights).expanduser().resolve():
        raise UserError(f"found --output_dir {args.output_dir}, which is the checkpoint's own folder: name another one")
    if args.push_to_hub:
        require_hub("the repository to push to", "no --push_to_hub, and push the folder later")
