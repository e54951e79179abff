"""The plan of a run: what it computes, the time, memory and disk that takes, and whether it makes sense."""

import os
import resource
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from recipe.data.blocks import OrderedBlocks
from recipe.data.prepared_tokens import PreparedTokens
from recipe.model.flops import flops_per_token
from recipe.model.scale import state_bytes
from recipe.system.errors import UserError
from recipe.system.files import write_json
from recipe.system.units import DAY, time_span
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.calibration import Calibration, calibrated
from recipe.train.saving import CHECKPOINT_BYTES_PER_PARAMETER
from recipe.train.schedules import UNLIMITED_STEPS
from recipe.train.sequences import Sequences
from recipe.train.stages import Stages

FILE = "plan.json"
MOST_EPOCHS = 100
MOST_DAYS = 30
GOOD_EPOCHS, STEPS_PER_EPOCH = 10, 50  # of the settings that an error message proposes
MARGIN = 0.1  # of the planned time, on both sides: what a few steps cannot tell of thousands
DISK_BYTES_PER_SECOND = 4e8  # hashing and writing of a checkpoint


@dataclass(frozen=True)
class Plan:
    """What is known of a run before its first step. Times are in seconds and sizes in bytes, per device where a device
    has its own; what only time will tell is None."""

    parameters: int
    embedding_parameters: int
    training_tokens: int
    validation_tokens: int
    tokens_per_step: int
    steps: int | None
    steps_left: int | None
    epochs: float | None
    flops: float | None
    seconds: tuple[float, float] | None  # of the steps that are left: at best, at worst
    memory: float
    memory_available: float
    checkpoint: int
    checkpoints: int | None
    disk_free: int


def plan_run(
    model: PreTrainedModel,
    prepared: PreparedTokens,
    sequences: Sequences,
    args: PretrainArguments,
    first_step: int,
) -> Plan:
    """The plan of what a run has still to do after step `first_step`, from a calibration on this device. Raises
    UserError where it makes no sense."""
    require_plausible(sequences.stages, sequences.train, args)
    resident = psutil.Process().memory_info().rss
    measured = calibrated(model, sequences.train, args, prepared.folder.parent)
    plan = plan_of(model, prepared, sequences, args, measured, resident, first_step)
    require_time(plan, args)
    return plan


def plan_of(
    model: PreTrainedModel,
    prepared: PreparedTokens,
    sequences: Sequences,
    args: PretrainArguments,
    measured: Calibration,
    resident: int,
    first_step: int = 0,
) -> Plan:
    """The plan of a run that goes on after step `first_step`, from the figures that were `measured`. `resident` is what
    the process held before they were."""
    stages, data = sequences.stages, sequences.train
    endless = args.max_steps == UNLIMITED_STEPS
    parameters = model.num_parameters()
    checkpoint = CHECKPOINT_BYTES_PER_PARAMETER * parameters
    memory, there = _memory(model, sequences, args, measured, resident)
    plan = {
        "parameters": parameters,
        "embedding_parameters": model.get_input_embeddings().weight.numel(),
        "training_tokens": prepared.splits["train"]["tokens"],
        "validation_tokens": prepared.splits["validation"]["tokens"],
        "tokens_per_step": sequences_per_step(args) * data.length,
        "steps": None if endless else args.max_steps,
        "steps_left": None if endless else max(0, args.max_steps - first_step),
        "epochs": None if endless else stages.tokens_before(args.max_steps) / (len(data) * data.length),
        "flops": None,
        "seconds": None,
        "memory": memory,
        "memory_available": there,
        "checkpoint": checkpoint,
        "checkpoints": None,
        "disk_free": shutil.disk_usage(_existing(Path(args.output_dir))).free,
    }
    if not endless:
        flops = {s.length: flops_per_token(model, s.length, data.count_predicted(s.length)) for s in stages}
        plan["flops"] = sum((s.last - s.first) * s.batch * s.length * flops[s.length] for s in stages)
        saves = _times(args.save_strategy, args.save_steps, args.max_steps)
        kept = min(saves, args.save_total_limit or saves) + len(args.save_at) + 1  # and the final weights
        plan |= {
            "checkpoints": kept,
            "seconds": _seconds(sequences, flops, args, measured, first_step, checkpoint),
        }
    return Plan(**plan)


def _times(strategy, interval: float, steps: int) -> int:
    """How often something is done every `interval` steps, or every share of them below 1."""
    if str(getattr(strategy, "value", strategy)) != "steps":
        return 0
    return int(steps // (interval if interval >= 1 else max(1, round(interval * steps))))


def _seconds(
    sequences: Sequences,
    flops: dict[int, float],
    args: PretrainArguments,
    measured: Calibration,
    first_step: int,
    checkpoint: int,
) -> tuple[float, float]:
    """Seconds of the steps after `first_step`, their evaluations and checkpoints: at best, at worst."""
    training, full = 0.0, sequences.train.length
    for stage in sequences.stages:
        steps = stage.last - max(stage.first, min(first_step, stage.last))
        per_token = measured.sequence_seconds / full * flops[stage.length] / flops[full]
        own = stage.batch / args.world_size * stage.length * per_token
        training += steps * (own + measured.update_seconds + measured.reduce_seconds)
    left = max(0, args.max_steps - first_step)
    evaluations = (_times(args.eval_strategy, args.eval_steps or args.logging_steps, left) + 1) if args.do_eval else 0
    rest = evaluations * len(sequences.evaluation) / args.world_size * measured.evaluation_seconds
    saves = _times(args.save_strategy, args.save_steps, left)
    rest += saves * checkpoint / DISK_BYTES_PER_SECOND
    return (
        (1 - MARGIN) * (training * measured.fastest + rest),
        (1 + MARGIN) * (training * measured.slowest + rest),
    )


def peak_bytes(args: PretrainArguments) -> int:
    """The most that this process has held so far, on its device."""
    if args.device.type == "cuda":
        return torch.cuda.max_memory_allocated(args.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory(
    model: PreTrainedModel, sequences: Sequences, args: PretrainArguments, measured: Calibration, resident: int
) -> tuple[float, float]:
    """(the peak of memory per process, what there is for it): weights, gradients and optimizer state, and either what
    the forward pass of a micro-batch keeps for the backward pass, or the logits of an evaluation batch."""
    zero = args.hf_deepspeed_config.config["zero_optimization"]["stage"] if args.deepspeed else 0
    state = state_bytes(model.num_parameters(), zero, args.world_size, args.bf16)
    kept = measured.activation_bytes * args.per_device_train_batch_size
    predicted = sequences.evaluation.count_predicted(sequences.evaluation.length) * args.per_device_eval_batch_size
    logits = 2 * 4 * predicted * model.config.vocab_size if args.do_eval else 0  # and their log-softmax, in fp32
    activations = max(kept, logits)
    if args.device.type == "cuda":
        return state + activations, torch.cuda.get_device_properties(args.device).total_memory
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    weights = 4 * model.num_parameters()  # held already
    peak = max(peak_bytes(args), resident + state - weights + activations)
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
    if plan.seconds is None or "time" in args.allow_implausible or plan.seconds[0] <= MOST_DAYS * DAY:
        return
    per_day = max(1, int(plan.steps_left / (plan.seconds[1] / DAY)))
    raise UserError(
        f"found {plan.steps_left:,} steps that would take {time_span(plan.seconds)} on this machine, expected at most "
        f"{MOST_DAYS} days: a day has {per_day:,} steps (--max_steps {per_day}, MAX_STEPS={per_day} for pretrain.sh); "
        "pass fewer steps, a smaller model or batch, --max_hours, or --allow_implausible time"
    )


def write_plan(run: Path, plan: Plan, measured: dict[str, float] | None = None) -> None:
    """Writes `run`/plan.json: the plan and, once the run has ended, what was measured of it."""
    write_json(run / FILE, {"planned": asdict(plan)} | ({"measured": measured} if measured else {}))
