"""The plan of a run: what it computes, how long that takes, the memory and disk it needs, and whether that makes sense."""

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
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.calibration import Calibration
from recipe.train.saving import CHECKPOINT_BYTES_A_PARAMETER
from recipe.train.schedules import WITHOUT_AN_END
from recipe.train.stages import Stages

FILE = "plan.json"
MOST_EPOCHS = 100
MOST_DAYS = 30
DAY = 86_400
MARGIN = 0.1  # of the planned time, on both sides: what a few steps cannot tell of thousands
DISK_BYTES_PER_SECOND = 4e8  # hashing and writing of a checkpoint
IMPLAUSIBLE = ("epochs", "time", "batch")


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
    memory_there: float
    checkpoint: int
    checkpoints: int | None
    disk_free: int


def plan_of(
    model: PreTrainedModel,
    prepared: PreparedTokens,
    data: OrderedBlocks,
    evaluation: OrderedBlocks,
    stages: Stages,
    args: PretrainArguments,
    measured: Calibration,
    resident: int,
    first_step: int = 0,
) -> Plan:
    """The plan of a run on `data` that goes on after step `first_step`, from the figures that were `measured`.
    `resident` is what the process held before they were."""
    endless = args.max_steps == WITHOUT_AN_END
    parameters = model.num_parameters()
    checkpoint = CHECKPOINT_BYTES_A_PARAMETER * parameters
    memory, there = _memory(model, args, measured, resident)
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
        "memory_there": there,
        "checkpoint": checkpoint,
        "checkpoints": None,
        "disk_free": shutil.disk_usage(_existing(Path(args.output_dir))).free,
    }
    if not endless:
        flops = {s.length: flops_per_token(model, s.length, data.predicted(s.length)) for s in stages}
        plan["flops"] = sum((s.last - s.first) * s.batch * s.length * flops[s.length] for s in stages)
        saves = _times(args.save_strategy, args.save_steps, args.max_steps) + len(args.save_at)
        kept = min(saves, args.save_total_limit or saves) + 1
        plan |= {
            "checkpoints": kept,
            "seconds": _seconds(stages, flops, data, evaluation, args, measured, first_step, checkpoint),
        }
    return Plan(**plan)


def _times(strategy, interval: float, steps: int) -> int:
    """How often something is done every `interval` steps, or every share of them below 1."""
    if str(getattr(strategy, "value", strategy)) != "steps":
        return 0
    return int(steps // (interval if interval >= 1 else max(1, round(interval * steps))))


def _seconds(
    stages, flops, data, evaluation, args, measured: Calibration, first_step: int, checkpoint: int
) -> tuple[float, float]:
    """Seconds of the steps after `first_step`, their evaluations and checkpoints: at best, at worst."""
    training = 0.0
    for stage in stages:
        steps = stage.last - max(stage.first, min(first_step, stage.last))
        per_token = measured.sequence_seconds / data.length * flops[stage.length] / flops[data.length]
        own = stage.batch / args.world_size * stage.length * per_token
        training += steps * (own + measured.update_seconds + measured.reduce_seconds)
    left = max(0, args.max_steps - first_step)
    evaluations = (_times(args.eval_strategy, args.eval_steps or args.logging_steps, left) + 1) if args.do_eval else 0
    rest = evaluations * len(evaluation) / args.world_size * measured.evaluation_seconds
    saves = _times(args.save_strategy, args.save_steps, left)
    rest += saves * checkpoint / DISK_BYTES_PER_SECOND
    return (
        (1 - MARGIN) * (training * measured.fastest + rest),
        (1 + MARGIN) * (training * measured.slowest + rest),
    )


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return psutil.Process().memory_info().rss


def peak_bytes(args: PretrainArguments) -> int:
    """The most that this process has held so far, on its device."""
    if args.device.type == "cuda":
        return torch.cuda.max_memory_allocated(args.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory(model, args: PretrainArguments, measured: Calibration, resident: int) -> tuple[float, float]:
    """(the peak of memory per device, what the device has)."""
    zero = args.hf_deepspeed_config.config["zero_optimization"]["stage"] if args.deepspeed else 0
    state = state_bytes(model.num_parameters(), zero, args.world_size, args.bf16)
    activations = measured.activation_bytes * args.per_device_train_batch_size
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
    """Raises UserError for a run whose steps are larger than its corpus, or pass over it more than MOST_EPOCHS times,
    unless --allow_implausible names that."""
    tokens, step = len(data) * data.length, sequences_per_step(args) * data.length
    if step > tokens and "batch" not in args.allow_implausible:
        half = 1 << max(0, (len(data) // 50).bit_length() - 1)
        raise UserError(
            f"found a global batch of {sequences_per_step(args):,} sequences = {step:,} tokens, and {tokens:,} tokens "
            f"of training text: every step would see all of it more than once; pass --global_batch_size {half} "
            f"(GLOBAL_BATCH_SIZE={half} for pretrain.sh), or --allow_implausible batch"
        )
    if args.max_steps == WITHOUT_AN_END or "epochs" in args.allow_implausible:
        return
    if (epochs := stages.tokens_before(args.max_steps) / tokens) > MOST_EPOCHS:
        fitting = max(1, 10 * tokens // step)
        raise UserError(
            f"found {args.max_steps:,} steps = {epochs:,.0f} epochs over {tokens:,} tokens, expected at most "
            f"{MOST_EPOCHS}: pass --max_steps {fitting} (MAX_STEPS={fitting} for pretrain.sh), ten epochs, or "
            "--allow_implausible epochs"
        )


def require_time(plan: Plan, args: PretrainArguments) -> None:
    """Raises UserError for a run that would take more than MOST_DAYS, unless --allow_implausible names time."""
    if plan.seconds is None or "time" in args.allow_implausible or plan.seconds[0] <= MOST_DAYS * DAY:
        return
    per_day = max(1, int(plan.steps_left / (plan.seconds[1] / DAY)))
    raise UserError(
        f"found {plan.steps_left:,} steps that would take {span(plan.seconds)} on this machine, expected at most "
        f"{MOST_DAYS} days: a day has {per_day:,} steps (--max_steps {per_day}, MAX_STEPS={per_day} for pretrain.sh); "
        "pass fewer steps, a smaller model or batch, --max_hours, or --allow_implausible time"
    )


# ---- what is shown


def lines_of(plan: Plan, model_type: str) -> list[str]:
    """The plan for the console, one subject per line, none wider than 80 columns."""
    rest = plan.parameters - plan.embedding_parameters
    lines = [
        f"model      {model_type}, {plan.parameters:,} parameters: {count(rest)} in layers and",
        f"           head, {count(plan.embedding_parameters)} in token embeddings",
        f"data       {plan.training_tokens:,} training and {plan.validation_tokens:,} validation tokens",
    ]
    if plan.steps is not None:
        lines.append(
            f"steps      {plan.steps:,} of {plan.tokens_per_step:,} tokens = {plan.epochs:.2f} epochs, {plan.flops:.1e} FLOP"
        )
    if plan.seconds is not None:
        left = "" if plan.steps_left == plan.steps else f" for the {plan.steps_left:,} steps that are left"
        lines.append(f"time       {span(plan.seconds)}{left}")
    lines.append(f"memory     {size(plan.memory)} of {size(plan.memory_there)} per process")
    kept = f", {plan.checkpoints} of them kept: {size(plan.checkpoints * plan.checkpoint)}" if plan.checkpoints else ""
    lines.append(f"disk       {size(plan.checkpoint)} per checkpoint{kept} of {size(plan.disk_free)} free")
    return lines


def count(number: float) -> str:
    """A count with its unit: 4.2 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes with their unit: 1.2 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def span(seconds: tuple[float, float]) -> str:
    """A range of time in the unit that suits its end: 2.1 to 2.6 minutes."""
    low, high = seconds
    for unit, factor in (("days", DAY), ("hours", 3600), ("minutes", 60)):
        if high >= 2 * factor:
            return f"{low / factor:.1f} to {high / factor:.1f} {unit}"
    return f"{low:.0f} to {max(1, high):.0f} seconds"


def write_plan(run: Path, plan: Plan, measured: dict[str, float] | None = None) -> None:
    """Writes `run`/plan.json: the plan and, once the run has ended, what was measured of it."""
    write_json(run / FILE, {"planned": asdict(plan)} | ({"measured": measured} if measured else {}))
