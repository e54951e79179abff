"""The learning rate's schedule: checked before step 1, and bent to a budget of wall-clock time."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import SchedulerType

from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object

UNLIMITED_STEPS = 1_000_000_000  # max_steps of a run that time alone ends
HORIZON = 1_000_000  # what a schedule over time counts as its steps: a millionth of the budget each
NEEDS_A_METRIC = ("reduce_lr_on_plateau", "greedy")
WITHOUT_A_LAST_STEP = ("inverse_sqrt",)
# Schedules beyond those of transformers, by their name for --lr_scheduler_type. Each maps progress, the share of the
# steps after warm-up that are done (0 to 1), to a share of the peak learning rate; --lr_scheduler_kwargs are its
# keyword arguments. Warm-up is linear.
SCHEDULES: dict[str, Callable[..., float]] = {}


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
    name: SchedulerType | str, optimizer: torch.optim.Optimizer, warmup: int, steps: int, kwargs: dict | None
) -> LRScheduler:
    """The schedule called `name`, of SCHEDULES or of transformers, over `steps` steps with `warmup` of warm-up."""
    if name not in SCHEDULES:
        return get_scheduler(name, optimizer, warmup, steps, kwargs)
    shape, kwargs = SCHEDULES[name], kwargs or {}
    shape(0.0, **kwargs)  # a wrong keyword raises here and not after the warm-up

    def factor(step: int) -> float:
        return step / warmup if step < warmup else shape(min(1.0, (step - warmup) / max(1, steps - warmup)), **kwargs)

    return LambdaLR(optimizer, factor)


def require_warmup_within(args: TrainingArguments) -> None:
    """Raises UserError where the warm-up is longer than the run, whose peak learning rate would never be reached."""
    if args.warmup_steps >= 1 and 0 < args.max_steps < args.warmup_steps:
        raise UserError(
            f"found --warmup_steps {args.warmup_steps:g}, expected at most the {args.max_steps:,} steps of the run: "
            "shorten it, or pass a share of the run like 0.06"
        )


def resolve_schedule(args: TrainingArguments, max_hours: float | None = None) -> None:
    """Checks lr_scheduler_type and lr_scheduler_kwargs against the run's steps, and turns a num_decay_steps below 1, a
    share of the run, into steps. `args.max_steps` must be set. Raises UserError for what transformers would only refuse
    after the model is built, or not at all."""
    kind, kwargs = args.lr_scheduler_type.value, args.lr_scheduler_kwargs or {}
    if not isinstance(kwargs, dict):
        raise UserError(f"found --lr_scheduler_kwargs {kwargs!r}, expected a JSON object")
    for kinds, why in ((NEEDS_A_METRIC, "follows a metric"), (WITHOUT_A_LAST_STEP if max_hours else (), "never ends")):
        if kind in kinds:
            raise UserError(f"found --lr_scheduler_type {kind}, which {why}: use linear, cosine or warmup_stable_decay")
    steps = HORIZON if max_hours else args.max_steps
    require_warmup_within(args)
    if kind == "warmup_stable_decay":
        decay = kwargs.get("num_decay_steps")
        if not isinstance(decay, int | float) or decay <= 0 or (max_hours and decay >= 1):
            found = f"num_decay_steps {decay}" if "num_decay_steps" in kwargs else "no num_decay_steps"
            unit = "a share of the time" if max_hours else "steps, or a share of all"
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
        build_schedule(kind, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"found --lr_scheduler_kwargs {json.dumps(kwargs)} for {kind}: {reason}") from error


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run when `hours` have passed, and tells which share of the run is over: of the time, or of the steps if
    there are to be `steps` and they are further on.

    What counts is the time of the work that is kept: from the first step of each process on, evaluation and saving
    included, and what the checkpoint it resumed from had taken. Ranks go by the clock of the first one.
    """

    def __init__(self, hours: float, steps: int, clock=time.monotonic):
        self.seconds, self.steps, self.clock = hours * 3600, steps, clock
        self.before, self.began = 0.0, None
        self.share, self.step = 0.0, 0

    def spent(self) -> float:
        """Seconds so far."""
        return self.before + (0.0 if self.began is None else self.clock() - self.began)

    def state(self) -> dict:
        """What transformers writes into trainer_state.json."""
        return {"args": {}, "attributes": {"seconds": self.spent(), "budget": self.seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get("TimeBudget", {})
        self.before = saved.get("attributes", {}).get("seconds", 0.0) if isinstance(saved, dict) else 0.0
        self.began = self.clock()

    def goes_on_from(self, state: TrainerState) -> bool:
        """Takes over the time that a checkpoint's run had spent, and tells whether it had another budget."""
        saved = state.stateful_callbacks.get("TimeBudget", {})
        spent = saved.get("attributes", {}) if isinstance(saved, dict) else {}
        self.before, self.step = spent.get("seconds", 0.0), state.global_step
        self.share = min(1.0, max(self.before / self.seconds, self.step / self.steps))
        return spent.get("budget") != self.seconds

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Comes before the schedule's own step, which sets the next learning rate."""
        spent = torch.tensor(self.spent(), dtype=torch.float64, device=args.device)
        if args.world_size > 1:
            torch.distributed.broadcast(spent, src=0)
        self.step = state.global_step + 1
        self.share = min(1.0, max(spent.item() / self.seconds, self.step / self.steps))

    def on_step_end(self, args, state, control, **kwargs):
        if self.share >= 1.0:
            control.should_save = True
            control.should_training_stop = True

    def schedule(self, args: TrainingArguments, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """The schedule that `args` name, over the share of the run that is over in place of its steps. A warm-up given
        in steps stays one of steps; one below 1 is a share of the time."""
        in_steps = int(args.warmup_steps) if args.warmup_steps >= 1 else 0
        warmup = 0 if in_steps else math.ceil(HORIZON * args.warmup_steps)
        shaped = build_schedule(args.lr_scheduler_type, optimizer, warmup, HORIZON, args.lr_scheduler_kwargs)
        shape = shaped.lr_lambdas[0]

        def factor(_) -> float:
            return shape(self.share * HORIZON) * (min(1.0, self.step / in_steps) if in_steps else 1.0)

        return LambdaLR(optimizer, factor)


def time_is_up(checkpoint: Path, hours: float) -> bool:
    """Whether the run that a checkpoint belongs to had spent its `hours` there."""
    try:
        saved = read_object(checkpoint / "trainer_state.json")["stateful_callbacks"]["TimeBudget"]
        return saved["attributes"]["seconds"] >= hours * 3600
    except (OSError, DamagedFile, KeyError, TypeError):
        return False
