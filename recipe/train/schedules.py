"""Learning rate schedules: validation before step 1, and schedules over a wall-clock budget."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import SchedulerType

from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object

UNLIMITED_STEPS = 1_000_000_000  # max_steps of a run that only --max_hours ends
HORIZON = 1_000_000  # steps of a schedule over time: each is a millionth of the budget
NEEDS_A_METRIC = ("reduce_lr_on_plateau", "greedy")
ENDLESS = ("inverse_sqrt",)
# How a phase (recipe.train.phases) goes from one learning rate to another, by the share of its steps that are done.
LR_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: done,
    "cosine": lambda done: (1 - math.cos(math.pi * done)) / 2,
    "sqrt": lambda done: math.sqrt(done),  # a decay of 1 - sqrt (Hägele et al., 2024)
}


def phase_rates(progress: float, pieces: list, warmup: int) -> float:
    """The share of the peak learning rate in a run of phases. `pieces` has (first step, last step, share at its begin,
    at its end, name in LR_SHAPES) of each, `warmup` the steps before `progress` is counted."""
    step = round(warmup + progress * (pieces[-1][1] - warmup))
    first, last, begin, end, shape = next((piece for piece in pieces if step < piece[1]), pieces[-1])
    return begin + (end - begin) * LR_SHAPES[shape]((step - first) / (last - first))


PHASES = "phases"  # the schedule of a run whose phases have their own learning rates
# Schedules beyond those of transformers, by their name for --lr_scheduler_type. Each maps progress, the share of the
# steps after warm-up that are done (0 to 1), to a share of the peak learning rate; --lr_scheduler_kwargs are its
# keyword arguments. Warm-up is linear.
SCHEDULES: dict[str, Callable[..., float]] = {}
SCHEDULE_NAMES = (*(kind.value for kind in SchedulerType), *SCHEDULES)


class OwnSchedule(str):
    """A name in SCHEDULES, with the attribute that transformers' names have."""

    @property
    def value(self) -> str:
        return str(self)


@contextmanager
def own_schedules_allowed(args: TrainingArguments) -> Iterator[None]:
    """Lets `args.lr_scheduler_type` be a name in SCHEDULES while transformers, which knows its own alone, validates the
    arguments. Raises UserError for a name of neither."""
    name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    known = (*(kind.value for kind in SchedulerType), *SCHEDULES)
    if name not in known:
        raise UserError(f"found --lr_scheduler_type {name}, expected one of {', '.join(known)}")
    if name in SCHEDULES:
        args.lr_scheduler_type = SchedulerType.LINEAR
    yield
    if name in SCHEDULES:
        args.lr_scheduler_type = OwnSchedule(name)


def build_schedule(
    name: SchedulerType | str, optimizer: torch.optim.Optimizer, warmup: int, steps: int, kwargs: dict | str | None
) -> LRScheduler:
    """The schedule called `name`, of SCHEDULES or of transformers, or PHASES, over `steps` steps with `warmup` of
    warm-up."""
    assert not isinstance(kwargs, str), "TrainingArguments reads it"
    own = SCHEDULES | {PHASES: phase_rates}
    if name not in own:
        return get_scheduler(name, optimizer, warmup, steps, kwargs)
    shape, kwargs = own[name], kwargs or {}
    shape(0.0, **kwargs)  # a wrong keyword raises here and not after the warm-up

    def factor(step: int) -> float:
        return step / warmup if step < warmup else shape(min(1.0, (step - warmup) / max(1, steps - warmup)), **kwargs)

    return LambdaLR(optimizer, factor)


def require_warmup_within(args: TrainingArguments) -> None:
    """Raises UserError if the warm-up is longer than the run, so that the peak learning rate would never be reached."""
    if args.warmup_steps >= 1 and 0 < args.max_steps < args.warmup_steps:
        raise UserError(
            f"found --warmup_steps {args.warmup_steps:g}, expected at most the {args.max_steps:,} steps of the run: "
            "shorten it, or pass a fraction of the run like 0.06"
        )


def resolve_schedule(args: TrainingArguments, max_hours: float | None = None) -> None:
    """Validates lr_scheduler_type and lr_scheduler_kwargs for the run's steps, and converts a num_decay_steps below 1,
    a fraction of the run, to steps. `args.max_steps` must be set.

    Raises UserError for settings that transformers would refuse only after the model is built, or not at all.
    """
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    kwargs = args.lr_scheduler_kwargs or {}
    if not isinstance(kwargs, dict):
        raise UserError(f"found --lr_scheduler_kwargs {kwargs!r}, expected a JSON object")
    for kinds, why in ((NEEDS_A_METRIC, "follows a metric"), (ENDLESS if max_hours else (), "never ends")):
        if kind in kinds:
            raise UserError(f"found --lr_scheduler_type {kind}, which {why}: use linear, cosine or warmup_stable_decay")
    steps = HORIZON if max_hours else args.max_steps
    require_warmup_within(args)
    if kind == "warmup_stable_decay":
        decay = kwargs.get("num_decay_steps")
        if not isinstance(decay, int | float) or decay <= 0 or (max_hours and decay >= 1):
            found = f"num_decay_steps {decay}" if "num_decay_steps" in kwargs else "no num_decay_steps"
            unit = "a fraction of the time" if max_hours else "steps, or a fraction of them"
            raise UserError(
                f"found --lr_scheduler_type warmup_stable_decay with {found}, expected {unit} below 1: "
                """--lr_scheduler_kwargs '{"num_decay_steps": 0.1}'"""
            )
        kwargs = kwargs | {"num_decay_steps": math.ceil(steps * decay) if decay < 1 else int(decay)}
        warmup = math.ceil(steps * args.warmup_steps) if args.warmup_steps < 1 else int(args.warmup_steps)
        if not max_hours and warmup + kwargs["num_decay_steps"] > steps:
            raise UserError(
                f"found {warmup} steps of warm-up and {kwargs['num_decay_steps']} of decay, expected {steps} at most "
                "together, those of the run: shorten one"
            )
        args.lr_scheduler_kwargs = kwargs
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    try:
        build_schedule(kind, optimizer, args.get_warmup_steps(steps), steps, kwargs)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"found --lr_scheduler_kwargs {json.dumps(kwargs)} for {kind}: {reason}") from error


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run after `hours`, and computes its progress: the larger of the fractions of `hours` and of `steps`.

    Only the time of work that is kept counts: from the first step of each process on, with evaluation and saving, plus
    that of the checkpoint it resumed from. All ranks use the clock of rank 0.
    """

    def __init__(self, hours: float, steps: int, clock=time.monotonic):
        self.seconds, self.steps, self.clock = hours * 3600, steps, clock
        self.before, self.began = 0.0, None
        self.progress, self.step = 0.0, 0

    def spent(self) -> float:
        """Seconds spent so far."""
        return self.before + (0.0 if self.began is None else self.clock() - self.began)

    def state(self) -> dict:
        """What transformers saves in trainer_state.json."""
        return {"args": {}, "attributes": {"seconds": self.spent(), "budget": self.seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.before = _saved(state).get("seconds", 0.0)
        self.began = self.clock()

    def resume_from(self, state: TrainerState) -> bool:
        """Continues from the time that a checkpoint's run had spent; returns whether its budget was another one."""
        spent = _saved(state)
        self.before, self.step = spent.get("seconds", 0.0), state.global_step
        self.progress = min(1.0, max(self.before / self.seconds, self.step / self.steps))
        return spent.get("budget") != self.seconds

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Runs before the step of the schedule, which sets the next learning rate."""
        spent = torch.tensor(self.spent(), dtype=torch.float64, device=args.device)
        if args.world_size > 1:
            torch.distributed.broadcast(spent, src=0)
        self.step = state.global_step + 1
        self.progress = min(1.0, max(spent.item() / self.seconds, self.step / self.steps))

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress >= 1.0:
            control.should_save = True
            control.should_training_stop = True

    def schedule(self, args: TrainingArguments, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """The schedule that `args` name, as a function of progress instead of steps. A warm-up of 1 or more is in
        steps, one below 1 is a fraction of the time."""
        in_steps = int(args.warmup_steps) if args.warmup_steps >= 1 else 0
        warmup = 0 if in_steps else math.ceil(HORIZON * args.warmup_steps)
        over_horizon = build_schedule(args.lr_scheduler_type, optimizer, warmup, HORIZON, args.lr_scheduler_kwargs)
        assert isinstance(over_horizon, LambdaLR), "resolve_schedule refuses the others"
        shape: Any = over_horizon.lr_lambdas[0]  # takes parts of a step, too

        def factor(_) -> float:
            return shape(self.progress * HORIZON) * (min(1.0, self.step / in_steps) if in_steps else 1.0)

        return LambdaLR(optimizer, factor)


def _saved(state: TrainerState) -> dict:
    """The attributes of a TimeBudget in trainer_state.json, {} where there is none."""
    callbacks = state.stateful_callbacks
    saved = callbacks.get("TimeBudget", {}) if isinstance(callbacks, dict) else {}
    return saved.get("attributes", {}) if isinstance(saved, dict) else {}


def time_is_up(checkpoint: Path, hours: float) -> bool:
    """Whether the run that a checkpoint belongs to had spent its `hours` by then."""
    try:
        saved = read_object(checkpoint / "trainer_state.json")["stateful_callbacks"]["TimeBudget"]
        return saved["attributes"]["seconds"] >= hours * 3600
    except (OSError, DamagedFile, KeyError, TypeError):
        return False
