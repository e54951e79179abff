"""The plan of a run: what it computes, the time, memory and disk that takes, and whether it makes sense."""

import os
import resource
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from recipe.data.blocks import OrderedBlocks
from recipe.data.sources import Sources
from recipe.model.flops import flops_per_token
from recipe.model.scale import state_bytes
from recipe.system.errors import UserError
from recipe.system.files import write_json
from recipe.system.units import DAY, time_span
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.calibration import Calibration, Conditions, calibrated
from recipe.train.run_record import PLAN
from recipe.train.saving import checkpoint_bytes
from recipe.train.schedules import UNLIMITED_STEPS
from recipe.train.sequences import Sequences
from recipe.train.stages import Stage, Stages

MOST_EPOCHS = 100
MOST_DAYS = 30
GOOD_EPOCHS, STEPS_PER_EPOCH = 10, 50  # of the settings that an error message proposes
MARGIN = 0.1  # of the planned time, on both sides: what a few steps cannot tell of thousands
DISK_BYTES_PER_SECOND = 4e8  # hashing and writing of a checkpoint


@dataclass(frozen=True)
class Plan:
    """What is known of a run before its first step. Times are in seconds and sizes in bytes, per device where a device
    has its own."""

    parameters: int
    embedding_parameters: int
    training_tokens: int
    validation_tokens: int
    processes: int
    tokens_per_step: int
    steps: int  # of a run that --max_hours ends: about so many
    steps_left: int
    epochs: float
    source_epochs: dict[str, float]  # over each source, by its short name
    flops: float
    seconds: tuple[float, float]  # of the steps that are left: at best, at worst
    memory: float
    memory_available: float
    checkpoint: int
    checkpoints: int  # that are kept at the end
    disk_free: int


def plan_run(
    model: PreTrainedModel,
    sources: Sources,
    sequences: Sequences,
    args: PretrainArguments,
    first_step: int,
) -> Plan:
    """The plan of what a run has still to do after step `first_step`, from a calibration on this device. Raises
    UserError where it makes no sense."""
    require_plausible(sequences.stages, sequences.train, args)
    resident = psutil.Process().memory_info().rss
    measured = calibrated(model, sequences.train, Conditions.of(args), sources.folder.parent)
    plan = plan_of(model, sources, sequences, args, measured, resident, first_step)
    require_time(plan, args)
    require_epochs(plan, args)
    return plan


def plan_of(
    model: PreTrainedModel,
    sources: Sources,
    sequences: Sequences,
    args: PretrainArguments,
    measured: Calibration,
    resident: int,
    first_step: int = 0,
) -> Plan:
    """The plan of a run that goes on after step `first_step`, from the figures that were `measured`. `resident` is what
    the process held before they were."""
    stages, data = sequences.stages, sequences.train
    parameters = model.num_parameters()
    checkpoint = checkpoint_bytes(parameters, args.ema_decay is not None)
    flops = {
        s: flops_per_token(model, s.length, sequences.of_phases[s.phase].count_predicted(s.length)) for s in stages
    }
    timed = flops_per_token(model, data.length, data.count_predicted(data.length))
    time = _Time(sequences, flops, timed, args, measured, checkpoint)
    steps = min(args.max_steps, time.steps_within(args.max_hours * 3600)) if args.max_hours else args.max_steps
    saves = _occasions(args.save_strategy, args.save_steps, 0, steps)
    memory, available = _memory(model, sequences, args, measured, resident)
    return Plan(
        parameters=parameters,
        embedding_parameters=embedding_parameters(model),
        training_tokens=sum(sources.tokens("train")),
        validation_tokens=sum(sources.tokens("validation")),
        processes=args.world_size,
        tokens_per_step=sequences_per_step(args) * data.length,
        steps=steps,
        steps_left=max(0, steps - first_step),
        epochs=stages.tokens_before(steps) / (len(data) * data.length),
        source_epochs=sequences.epochs(steps),
        flops=sum(max(0, min(s.last, steps) - s.first) * s.batch * s.length * flops[s] for s in stages),
        seconds=time.of_steps(first_step, steps),
        memory=memory,
        memory_available=available,
        checkpoint=checkpoint,
        checkpoints=min(saves, args.save_total_limit or saves) + len(args.save_at) + 1,  # and the final weights
        disk_free=shutil.disk_usage(_existing(Path(args.output_dir))).free,
    )


def embedding_parameters(model: PreTrainedModel) -> int:
    """Parameters of the token embeddings."""
    table: Any = model.get_input_embeddings()
    return table.weight.numel()


def _occasions(strategy, interval: float, first: int, last: int) -> int:
    """How often something is done after step `first` up to step `last`, every `interval` steps, or every share of them
    below 1."""
    if str(getattr(strategy, "value", strategy)) != "steps":
        return 0
    every = int(interval) if interval >= 1 else max(1, round(interval * last))
    return last // every - first // every


@dataclass
class _Time:
    """The time of a run's steps, evaluations and checkpoints, from the figures of a calibration."""

    sequences: Sequences
    flops: dict[Stage, float]  # per token
    flops_measured: float  # per token of the sequences that were timed
    args: PretrainArguments
    measured: Calibration
    checkpoint: int  # bytes

    def of_steps(self, first: int, last: int) -> tuple[float, float]:
        """Seconds of the steps after `first` up to `last`, with evaluations and checkpoints: at best, at worst."""
        args, measured = self.args, self.measured
        training = sum(
            max(0, min(stage.last, last) - max(stage.first, first)) * self._step_seconds(stage)
            for stage in self.sequences.stages
        )
        evaluations = 0
        if args.do_eval:
            every = args.eval_steps or args.logging_steps
            evaluations = _occasions(args.eval_strategy, every, first, last)
            evaluations += not _occasions(args.eval_strategy, every, last - 1, last)  # the last step's counts as final
        rest = evaluations * len(self.sequences.evaluation) / args.world_size * measured.evaluation_seconds
        saves = _occasions(args.save_strategy, args.save_steps, first, last)
        rest += saves * self.checkpoint / DISK_BYTES_PER_SECOND
        return (
            (1 - MARGIN) * (training * measured.fastest + rest),
            (1 + MARGIN) * (training * measured.slowest + rest),
        )

    def steps_within(self, seconds: float) -> int:
        """How many steps about `seconds` are enough for."""
        most = 1
        while most < UNLIMITED_STEPS and sum(self.of_steps(0, most)) / 2 < seconds:
            most *= 2
        least = most // 2
        while most - least > max(1, most // 1000):
            middle = (least + most) // 2
            least, most = (middle, most) if sum(self.of_steps(0, middle)) / 2 < seconds else (least, middle)
        return max(1, least)

    def _step_seconds(self, stage: Stage) -> float:
        full, measured = self.sequences.train.length, self.measured
        per_token = measured.sequence_seconds / full * self.flops[stage] / self.flops_measured
        tokens = stage.batch / self.args.world_size * stage.length
        return tokens * per_token + measured.update_seconds + measured.reduce_seconds


def peak_bytes(args: PretrainArguments) -> int:
    """The most that this process has held so far, on its device."""
    if args.device.type == "cuda":
        return torch.cuda.max_memory_allocated(args.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory(
    model: PreTrainedModel, sequences: Sequences, args: PretrainArguments, measured: Calibration, resident: int
) -> tuple[float, float]:
    """(the peak of memory per process, what there is for it): weights, gradients and optimizer state; either what the
    forward pass of a micro-batch keeps for the backward pass, or the logits of an evaluation batch; on a CPU also the
    copies of the gradients that DistributedDataParallel reduces and of the weights that are being saved."""
    zero = args.hf_deepspeed_config.config["zero_optimization"]["stage"] if args.deepspeed else 0
    # The bf16 copy of the weights is among the activations, as they were measured.
    state = state_bytes(model.num_parameters(), zero, args.world_size, args.bf16 and zero > 0)
    predicted = sequences.evaluation.count_predicted(sequences.evaluation.length) * args.per_device_eval_batch_size
    logits = 2 * 4 * predicted * model.config.vocab_size if args.do_eval else 0  # and their log-softmax, in fp32
    activations = max(measured.activation_bytes, logits)
    if args.device.type == "cuda":
        return state + activations, torch.cuda.get_device_properties(args.device).total_memory
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    weights = 4 * model.num_parameters()  # held already
    copies = weights if args.world_size == 1 else 2 * weights
    peak = max(peak_bytes(args), resident + state - weights + activations + copies)
    return peak, psutil.virtual_memory().total / processes


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


# ---- what makes no sense


def require_plausible(stages: Stages, data: OrderedBlocks, args: PretrainArguments) -> None:
    """Raises UserError for a run whose step is larger than its corpus, or that passes over it more than MOST_EPOCHS
    times, unless --allow_implausible names that; the message has a batch and a number of steps that fit."""
    corpus, batch = len(data) * data.length, sequences_per_step(args)
    epochs = 0.0 if args.max_steps == UNLIMITED_STEPS else stages.tokens_before(args.max_steps) / corpus
    found = []
    if batch > len(data) and "batch" not in args.allow_implausible:
        found.append(("batch", f"a global batch of {batch * data.length:,} tokens"))
    if epochs > MOST_EPOCHS and "epochs" not in args.allow_implausible:
        found.append(("epochs", f"{args.max_steps:,} steps = {epochs:,.0f} epochs"))
    if not found:
        return
    unit = args.per_device_train_batch_size * args.world_size  # what a global batch is a multiple of
    fitting = batch if batch * STEPS_PER_EPOCH <= len(data) else len(data) // STEPS_PER_EPOCH // unit * unit
    changes = {"GLOBAL_BATCH_SIZE": fitting} if fitting != batch else {}
    if fitting == 0:
        size = 1 << max(0, (len(data) // STEPS_PER_EPOCH // args.world_size).bit_length() - 1)
        fitting = size * args.world_size
        changes = {"GLOBAL_BATCH_SIZE": fitting, "MICRO_BATCH_SIZE": size}
    changes["MAX_STEPS"] = max(1, GOOD_EPOCHS * len(data) // fitting)
    flags = {"GLOBAL_BATCH_SIZE": "global_batch_size", "MICRO_BATCH_SIZE": "per_device_train_batch_size"}
    typed = " ".join(f"--{flags.get(name, name.lower())} {value}" for name, value in changes.items())
    raise UserError(
        f"found {' and '.join(what for _, what in found)} for a corpus of {corpus:,} tokens, expected at most "
        f"{MOST_EPOCHS} epochs, in steps smaller than the corpus: pass {typed} "
        f"({' '.join(f'{name}={value}' for name, value in changes.items())} bash pretrain.sh), or "
        f"--allow_implausible {' '.join(name for name, _ in found)}"
    )


def require_time(plan: Plan, args: PretrainArguments) -> None:
    """Raises UserError for a run that would take more than MOST_DAYS, unless --allow_implausible names time."""
    if args.max_hours or "time" in args.allow_implausible or plan.seconds[0] <= MOST_DAYS * DAY:
        return
    per_day = max(1, int(plan.steps_left / (plan.seconds[1] / DAY)))
    raise UserError(
        f"found {plan.steps_left:,} steps that would take {time_span(plan.seconds)} on this machine, expected at most "
        f"{MOST_DAYS} days: a day has {per_day:,} steps (--max_steps {per_day}, MAX_STEPS={per_day} for pretrain.sh); "
        "pass fewer steps, a smaller model or batch, --max_hours, or --allow_implausible time"
    )


def require_epochs(plan: Plan, args: PretrainArguments) -> None:
    """Raises UserError for a run whose --max_hours would pass over its corpus more than MOST_EPOCHS times, unless
    --allow_implausible names epochs."""
    if not args.max_hours or plan.epochs <= MOST_EPOCHS or "epochs" in args.allow_implausible:
        return
    hours = args.max_hours * GOOD_EPOCHS / plan.epochs
    raise UserError(
        f"found {args.max_hours:g} hours = about {plan.steps:,} steps = {plan.epochs:,.0f} epochs, expected at most "
        f"{MOST_EPOCHS} epochs: pass --max_hours {hours:.2g} (MAX_HOURS={hours:.2g} bash pretrain.sh), a larger model, "
        "or --allow_implausible epochs"
    )


def write_plan(run: Path, plan: Plan, measured: dict[str, float] | None = None) -> None:
    """Writes `run`/plan.json: the plan and, once the run has ended, what was measured of it."""
    write_json(run / PLAN, {"planned": asdict(plan)} | ({"measured": measured} if measured else {}))
