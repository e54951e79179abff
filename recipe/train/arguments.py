"""Arguments of a pre-training run: transformers' TrainingArguments and the recipe's own."""

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.launch.world import announced_world, require_world, select_device
from recipe.system.errors import UserError
from recipe.train.deepspeed import avoid_compiling
from recipe.train.deepspeed_config import check_deepspeed
from recipe.train.optimizers import MUON, muon_settings
from recipe.train.schedules import UNLIMITED_STEPS, own_schedules_allowed
from recipe.train.settings import check_optimizer, check_settings
from recipe.train.stages import steps_for


@dataclass
class PretrainArguments(TrainingArguments):
    """All of transformers' TrainingArguments, and the recipe's own."""

    global_batch_size: int | None = option(
        None,
        "Sequences an optimizer step on all devices together; gradient accumulation is derived from it. "
        "By default: micro-batch x accumulation x devices.",
    )
    short_seq_length: int | None = option(
        None, "Begin with sequences of so many tokens, a part of --max_seq_length, and as many more of them a step."
    )
    short_seq_share: float = option(0.9, "Share of the steps that have short sequences, if --short_seq_length is set.")
    batch_warmup_start: int | None = option(
        None, "Begin with so many sequences a step; they double in equal intervals up to the global batch."
    )
    batch_warmup_steps: int = option(0, "The step at which the global batch is reached.")
    save_at: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Steps to save after, beside --save_steps: 250 500 1000. --save_total_limit leaves these "
            "checkpoints alone."
        },
    )
    max_hours: float | None = option(
        None, "Train for so many hours and let the learning rate's schedule end there; ends earlier with --max_steps."
    )
    lr_scheduler_type: str = option("linear", "transformers' names, or one of SCHEDULES in recipe/train/schedules.py.")
    optim: str = option(TrainingArguments.optim, "transformers' names, or muon: Muon for hidden matrices, else AdamW.")
    peak_tflops: float | None = option(None, "The device's peak rate, for MFU, where its name isn't known.")
    nonfinite: str = option("stop", "What a NaN or infinite gradient does: stop the run, or skip the update.")
    allow_changed: str = option("", "Settings that may differ from the run that is resumed, separated by commas.")
    ddp_timeout: int = option(600, "Seconds after which a rank that hears nothing of another one stops.")
    logging_nan_inf_filter: bool = option(False, "Always off here: a loss that isn't finite must be seen.")
    # In-house loaders seek by themselves, so the Trainer must not skip batches one by one.
    ignore_data_skip: bool = option(True, "Always on here: the data seeks to the step that a run resumes at.")

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("found no --output_dir: name the run's folder")
        require_numbers(vars(self))
        self.unused = check_settings(self, pretraining=True)
        world = announced_world()
        if world.size == 1 and torch.cuda.device_count() > 1 and not self.use_cpu:
            raise UserError(
                f"found {torch.cuda.device_count()} GPUs and one process: start one a GPU with bash pretrain.sh or "
                "torchrun, or choose one by CUDA_VISIBLE_DEVICES=0"
            )
        if self.global_batch_size is not None:
            if self.gradient_accumulation_steps != 1:
                raise UserError(
                    f"found --gradient_accumulation_steps {self.gradient_accumulation_steps} beside "
                    "--global_batch_size: accumulation is derived from the latter; leave the former out"
                )
            self.gradient_accumulation_steps = derive_accumulation(
                self.global_batch_size, self.per_device_train_batch_size, world.size
            )
        if self.nonfinite not in ("stop", "skip"):
            raise UserError(f"found --nonfinite {self.nonfinite}, expected stop or skip")
        if self.deepspeed and not self.do_train:
            self.deepspeed = None  # it splits an optimizer, and there is none; a checkpoint holds whole weights
            if os.environ.get("RANK", "0") == "0":
                print("warning: --deepspeed changes nothing without --do_train")
        if self.nonfinite == "skip" and self.deepspeed:
            raise UserError("found --nonfinite skip beside --deepspeed, which updates before anyone can look: use stop")
        if self.push_to_hub and "checkpoint" in str(getattr(self.hub_strategy, "value", self.hub_strategy)):
            raise UserError(
                f"found --hub_strategy {getattr(self.hub_strategy, 'value', self.hub_strategy)}: it would upload a "
                "checkpoint while it is being saved; use every_save or end"
            )
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every weight is used in every step; looking costs a pass
        self._check_stages()
        muon = self.optim == MUON
        if muon:
            muon_settings(self.optim_args)
            if self.deepspeed:
                raise UserError(
                    "found --optim muon beside --deepspeed: Muon needs matrices that ZeRO cuts up; set DS_CONFIG="
                )
            self.optim = TrainingArguments.optim  # a name that transformers knows, while it looks
        if self.deepspeed:
            check_deepspeed(self, world.size)
        select_device(self, world)
        if self.use_cpu and self.deepspeed:
            avoid_compiling()
        with own_schedules_allowed(self):
            super().__post_init__()
        require_world(self, world)
        if self.deepspeed:
            # Or ZeRO-3 would split the model while it is made, with other draws on every rank. The engine splits it.
            unset_hf_deepspeed_config()
        if muon:
            self.optim = MUON
        else:
            check_optimizer(self)

    def _check_stages(self) -> None:
        if self.max_hours is not None and self.short_seq_length is not None:
            raise UserError(
                "found --short_seq_length beside --max_hours: its share is one of the steps, whose number only time "
                "will tell; pass --max_steps in place of the latter"
            )
        if (self.batch_warmup_start is None) != (self.batch_warmup_steps == 0):
            raise UserError(
                f"found --batch_warmup_start {self.batch_warmup_start} and --batch_warmup_steps "
                f"{self.batch_warmup_steps}: pass both, the sequences to begin with and the step to reach the batch at"
            )
        if self.batch_warmup_start is not None:
            cuts = self.gradient_accumulation_steps * announced_world().size
            if self.batch_warmup_start % cuts:
                raise UserError(
                    f"found --batch_warmup_start {self.batch_warmup_start}, expected a multiple of {cuts}, "
                    "accumulation steps x devices: they stay, their micro-batches grow"
                )


def derive_accumulation(global_batch: int, micro_batch: int, devices: int) -> int:
    """Accumulation steps that make `global_batch` sequences of micro-batches on `devices`.

    Raises UserError, with the micro-batches that would do, where they don't divide.
    """
    if global_batch % (micro_batch * devices) == 0:
        return global_batch // (micro_batch * devices)
    if global_batch % devices:
        fitting = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        near = sorted(sorted(fitting, key=lambda n: abs(n - devices))[:4])
        lower = global_batch // devices * devices
        raise UserError(
            f"a global batch of {global_batch} sequences doesn't divide by {devices} devices: use "
            f"{', '.join(map(str, near))} devices, or a global batch of {lower or devices} or {lower + devices}"
        )
    share = global_batch // devices
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - micro_batch))[:4])
    raise UserError(
        f"a global batch of {global_batch} sequences on {devices} device{'s' * (devices > 1)} doesn't divide by a "
        f"micro-batch of {micro_batch}: micro-batches that do are {', '.join(map(str, near))}"
    )


def sequences_per_step(args: TrainingArguments) -> int:
    """The global batch: micro-batch x accumulation x devices."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def epochs_to_steps(args: TrainingArguments, blocks: int) -> int:
    """The optimizer steps of a run: max_steps, or what num_train_epochs over `blocks` comes to; with max_hours and no
    max_steps, as many as there is time for."""
    if args.max_steps > 0:
        return args.max_steps
    if args.max_hours:
        return UNLIMITED_STEPS
    sequences = args.num_train_epochs * blocks
    return steps_for(sequences, sequences_per_step(args), args.batch_warmup_start, args.batch_warmup_steps)
