"""Branches: a run that begins at a checkpoint of another run and ends it in its own way, as if it had been one run. So
one long stable run gives results at several budgets, each for the price of its decay."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from recipe.model.checkpoints import step_of
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.resume import require_resumable
from recipe.train.run_record import RECORD, read_record
from recipe.train.schedules import build_schedule

# The settings that a branch may change: those that decide where and how a run ends.
CHANGED = ("max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "phases")
COMPARED_STEPS = 1000  # whose learning rates are compared, evenly spread


def branch_point(
    model: PreTrainedModel, args: PretrainArguments, signature: dict, say: Callable[[str], None]
) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint that --branch_from names, and the settings that may differ from those of its run. `signature` is
    this run's.

    Raises UserError if a run cannot be resumed from it, if this run ends before it, or if the other run's steps up to
    it aren't those of this run, because its learning rate had begun to decay or its phases were others."""
    named = str(args.branch_from)
    folder = require_resumable(named, model, bool(args.deepspeed), say)
    before = read_record(folder.resolve().parent).get("meaning")
    if not before:
        raise UserError(f"found --branch_from {named} without a {RECORD} beside it, which says how it was trained")
    step = step_of(folder)
    if args.max_hours or before.get("max_hours"):
        raise UserError("found --branch_from beside --max_hours, now or in the other run: a branch counts in steps")
    if step >= args.max_steps:
        raise UserError(f"found --branch_from {named}, expected --max_steps above {step:,}, not {args.max_steps:,}")
    _require_same_rates(named, before, signature, step)
    _require_same_phases(named, before, signature, step)
    return folder, (*CHANGED, "data") if _adds_sources(before["data"], signature["data"]) else CHANGED


def _adds_sources(before: str | dict, now: str | dict) -> bool:
    """Whether the sources of a run are those of another, in the same order, and more for the phases after it."""
    old, new = (list(data.values()) if isinstance(data, dict) else [data] for data in (before, now))
    return len(new) > len(old) and new[: len(old)] == old


def take_over_log(checkpoint: Path, run: Path) -> None:
    """Begins the log of a branch in `run` with that of the run of its `checkpoint`; later lines are removed as for any
    resumed run."""
    log = checkpoint.resolve().parent / "log.jsonl"
    if log.is_file() and not (run / log.name).exists():
        shutil.copyfile(log, run / log.name)


def _require_same_rates(named: str, before: dict, now: dict, step: int) -> None:
    old, new = _rates(before), _rates(now)
    for k in np.unique(np.linspace(0, step - 1, min(step, COMPARED_STEPS)).astype(int)).tolist():
        if abs(old(k) - new(k)) > 1e-9 * max(1e-12, old(k), new(k)):
            raise UserError(
                f"found --branch_from {named}, whose run had the learning rate {old(k):.3g} in step {k + 1:,}, where "
                f"this one has {new(k):.3g}: branch from a checkpoint before the decay, with the same warm-up"
            )


def _rates(meaning: dict) -> Callable[[int], float]:
    """The learning rate of each step of a run."""
    steps, warmup, peak = meaning["max_steps"], float(meaning["warmup_steps"]), float(meaning["learning_rate"])
    warmup = int(np.ceil(steps * warmup)) if warmup < 1 else int(warmup)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    schedule = build_schedule(meaning["lr_scheduler_type"], optimizer, warmup, steps, meaning["lr_scheduler_kwargs"])
    assert isinstance(schedule, LambdaLR), "resolve_schedule refuses the others"
    factor = schedule.lr_lambdas[0]
    return lambda step: peak * factor(step)


def _require_same_phases(named: str, before: dict, now: dict, step: int) -> None:
    if before["max_steps"] != now["max_steps"] and now.get("mlm_probability_end"):
        raise UserError(
            f"found --branch_from {named} beside --mlm_probability_end, by which the masking rate of its steps depends "
            "on the length of the run: leave it out in both"
        )
    old, new = _parts(before, step), _parts(now, step)
    if old != new:
        first = next((a, b) for a, b in zip([*old, None], [*new, None], strict=False) if a != b)
        raise UserError(
            f"found --branch_from {named}, whose run had other phases up to it: {first[0]} there, {first[1]} here: "
            "begin with the same phases"
        )


def _parts(meaning: dict, step: int) -> list[dict]:
    """What the phases of a run before `step` do, but for their learning rates, which are compared by themselves."""
    flags = {
        "data": meaning.get("mixture"),
        "max_seq_length": meaning["max_seq_length"],
        "mlm_probability": meaning.get("mlm_probability"),
    }
    phases = meaning.get("phases") or [{"first": 0, "last": meaning["max_steps"]}]
    if short := meaning.get("short_seq_length"):
        cut = round(meaning["short_seq_share"] * meaning["max_steps"])
        phases = [{"first": 0, "last": cut, "max_seq_length": short}, {"first": cut, "last": meaning["max_steps"]}]
    parts: list[dict] = []
    for phase in phases:
        part = flags | {key: value for key, value in phase.items() if key not in ("lr", "lr_shape")}
        part["last"] = min(part["last"], step)
        if part["first"] >= step:
            break
        if parts and {**parts[-1], "first": 0, "last": 0} == {**part, "first": 0, "last": 0}:
            parts[-1]["last"] = part["last"]  # one phase in two parts, which differ in their learning rates alone
        else:
            parts.append(part)
    return parts
