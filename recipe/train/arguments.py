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
from recipe.train.flag_help import flag_help
from recipe.train.schedules import SCHEDULE_NAMES, UNLIMITED_STEPS, own_schedules_allowed
from recipe.train.settings import MUON, check_optimizer, check_settings, muon_settings
from recipe.train.stages import steps_for


@dataclass
class PretrainArguments(TrainingArguments):
    """Transformers' TrainingArguments with further flags for pre-training."""

    output_dir: str = option("", "Folder of the run: its log, its record and its checkpoints.")
    global_batch_size: int | None = option(
        None,
        "Sequences per optimizer step over all devices; gradient accumulation is derived from it. "
        "By default micro-batch x accumulation x devices.",
    )
    short_seq_length: int | None = option(
        None,
        "Begin with sequences of this length, a divisor of --max_seq_length, at the same number of tokens per step.",
    )
    short_seq_share: float = option(0.9, "Share of the steps that use --short_seq_length.")
    batch_warmup_start: int | None = option(
        None, "Batch-size warm-up: sequences per step at first; doubles at equal intervals up to the global batch size."
    )
    batch_warmup_steps: int = option(0, "Step at which batch-size warm-up reaches the global batch size.")
    phases: str | None = option(
        None,
        "YAML file with the phases of the run: each has its share of the steps, and its data, length, masking rate or "
        "learning rate (docs/phases.md).",
    )
    branch_from: str | None = option(
        None,
        "Begin with the weights, optimizer and data order of this checkpoint of another run, whose learning rate has "
        "not decayed yet, and end that run here.",
    )
    document_attention: bool = option(
        False, "Tokens attend within their own document alone, and positions begin anew at each document of a block."
    )
    ema_decay: float | None = option(
        None,
        "Keep an exponential moving average of the weights, e.g. 0.999; python -m recipe.average RUN --ema uses it.",
    )
    save_at: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Further steps to save at, e.g. 250 500 1000. --save_total_limit neither counts nor deletes these "
            "checkpoints."
        },
    )
    max_hours: float | None = option(
        None, "Train for this many hours: the learning-rate schedule ends then, or at --max_steps if that comes first."
    )
    lr_scheduler_type: str = option("linear", f"Shape of the learning rate after warm-up: {', '.join(SCHEDULE_NAMES)}.")
    optim: str = option(
        TrainingArguments.optim, "muon (Muon for hidden matrices, AdamW for the rest), or a name in transformers."
    )
    peak_tflops: float | None = option(None, "Peak TFLOP/s of the device, for MFU; by default looked up by its name.")
    nonfinite: str = option("stop", "On a NaN or infinite gradient: stop the run, or skip the update.")
    allow_changed: str = option(
        "", "Settings that may differ from those of the run that is resumed, separated by commas."
    )
    license: str | None = option(None, "Licence of the model, for its card: a name of the hub, such as apache-2.0.")
    language: str | None = option(None, "Language of the model, for its card: an ISO 639 code, such as en.")
    dry_run: str | None = option(
        None, "Print the plan of the run and stop before it: plan for people to read, json for programs."
    )
    allow_implausible: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Run although the plan makes little sense: epochs (over 100 of them), time (over 30 days) or batch "
            "(larger than the corpus)."
        },
    )
    ddp_timeout: int = option(600, "Timeout of collective operations, in seconds.")
    logging_nan_inf_filter: bool = option(False, "Always off: a non-finite loss must be visible.")
    # The data loader seeks in O(1), so the Trainer must not skip batches one by one.
    ignore_data_skip: bool = option(True, "Always on: the data loader seeks to the step at which a run resumes.")

    @classmethod
    def flag_help(cls) -> dict[str, str]:
        """The help of the flags that transformers defines."""
        return flag_help(cls, pretraining=True)

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("found no --output_dir: name the run's folder")
        require_numbers(vars(self))
        self.unused = check_settings(self, pretraining=True)
        world = announced_world()
        if world.size == 1 and torch.cuda.device_count() > 1 and not self.use_cpu:
            raise UserError(
                f"found {torch.cuda.device_count()} GPUs and one process: start one process per GPU with bash "
                "pretrain.sh or torchrun, or select one GPU with CUDA_VISIBLE_DEVICES=0"
            )
        if self.global_batch_size is not None:
            if self.gradient_accumulation_steps != 1:
                raise UserError(
                    f"found --gradient_accumulation_steps {self.gradient_accumulation_steps} beside "
                    "--global_batch_size, from which accumulation is derived: leave the former out"
                )
            self.gradient_accumulation_steps = derive_accumulation(
                self.global_batch_size, self.per_device_train_batch_size, world.size
            )
        if self.dry_run not in (None, "plan", "json"):
            raise UserError(f"found --dry_run {self.dry_run}, expected plan or json")
        for name in self.allow_implausible:
            if name not in ("epochs", "time", "batch"):
                raise UserError(f"found --allow_implausible {name}, expected epochs, time or batch")
        if self.ema_decay is not None and self.deepspeed:
            raise UserError("found --ema_decay beside --deepspeed, which shards the weights: leave one of them out")
        if self.nonfinite not in ("stop", "skip"):
            raise UserError(f"found --nonfinite {self.nonfinite}, expected stop or skip")
        if self.deepspeed and not self.do_train:
            self.deepspeed = None  # ZeRO shards the optimizer, and there is none; a checkpoint holds whole weights
            if os.environ.get("RANK", "0") == "0":
                print("warning: --deepspeed has no effect without --do_train")
        if self.nonfinite == "skip" and self.deepspeed:
            raise UserError(
                "found --nonfinite skip beside --deepspeed, which updates weights without a check: use stop"
            )
        if self.push_to_hub and "checkpoint" in str(getattr(self.hub_strategy, "value", self.hub_strategy)):
            raise UserError(
                f"found --hub_strategy {getattr(self.hub_strategy, 'value', self.hub_strategy)}: it would upload a "
                "checkpoint while it is being saved; use every_save or end"
            )
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every weight is used in every step; the search costs a pass
        self._check_stages()
        muon = self.optim == MUON
        if muon:
            muon_settings(self.optim_args)
            if self.deepspeed:
                raise UserError(
                    "found --optim muon beside --deepspeed: Muon needs the matrices that ZeRO shards; set DS_CONFIG="
                )
            self.optim = TrainingArguments.optim  # a name that passes its validation; set back below
        if self.deepspeed:
            check_deepspeed(self, world.size)
        select_device(self, world)
        if self.use_cpu and self.deepspeed:
            avoid_compiling()
        with own_schedules_allowed(self):
            super().__post_init__()
        require_world(self, world)
        if self.deepspeed:
            # Otherwise ZeRO-3 would shard the model while it is initialised, with other random numbers on every rank.
            # The engine shards it later.
            unset_hf_deepspeed_config()
        if muon:
            self.optim = MUON
        else:
            check_optimizer(self)

    def _check_stages(self) -> None:
        for name in ("short_seq_length", "max_hours"):
            if self.phases is not None and getattr(self, name) is not None:
                why = (
                    "a phase has its own max_seq_length" if name == "short_seq_length" else "phases are shares of steps"
                )
                raise UserError(f"found --phases beside --{name}: {why}; leave one of them out")
        if self.branch_from is not None and (self.resume_from_checkpoint or not self.do_train):
            beside = "beside --resume_from_checkpoint" if self.resume_from_checkpoint else "without --do_train"
            raise UserError(f"found --branch_from {beside}: a branch trains on from the checkpoint that it names")
        if self.max_hours is not None and self.short_seq_length is not None:
            raise UserError(
                "found --short_seq_length beside --max_hours: its share is one of the steps, whose number is not known "
                "in advance; pass --max_steps in place of the latter"
            )
        if (self.batch_warmup_start is None) != (self.batch_warmup_steps == 0):
            raise UserError(
                f"found --batch_warmup_start {self.batch_warmup_start} and --batch_warmup_steps "
                f"{self.batch_warmup_steps}: pass both, the first batch size and the step that ends the warm-up"
            )
        if self.batch_warmup_start is not None:
            cuts = self.gradient_accumulation_steps * announced_world().size
            if self.batch_warmup_start % cuts:
                raise UserError(
                    f"found --batch_warmup_start {self.batch_warmup_start}, expected a multiple of {cuts}, "
                    "accumulation steps x devices: these are fixed, and the micro-batches grow"
                )


def derive_accumulation(global_batch: int, micro_batch: int, devices: int) -> int:
    """Gradient accumulation steps for `global_batch` sequences in micro-batches on `devices`.

    Raises UserError, with micro-batch sizes that would fit, where they don't divide.
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
        f"micro-batch of {micro_batch}: micro-batch sizes that fit: {', '.join(map(str, near))}"
    )


def sequences_per_step(args: TrainingArguments) -> int:
    """The global batch size: micro-batch x accumulation x devices."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def epochs_to_steps(args: PretrainArguments, blocks: int) -> int:
    """The optimizer steps of a run: max_steps, or those of num_train_epochs over `blocks`; with max_hours and no
    max_steps, WITHOUT_AN_END."""
    if args.max_steps > 0:
        return args.max_steps
    if args.max_hours:
        return UNLIMITED_STEPS
    sequences = args.num_train_epochs * blocks
    return steps_for(sequences, sequences_per_step(args), args.batch_warmup_start, args.batch_warmup_steps)
