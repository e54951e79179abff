"""Learning rate schedules: settings that are validated before step 1, time budgets, and registered schedules."""

import pytest
import torch
from transformers.trainer_callback import TrainerControl, TrainerState

from recipe.cli.parser import parse
from recipe.finetune.arguments import FineTuneArguments
from recipe.system.errors import UserError
from recipe.train import schedules
from recipe.train.arguments import PretrainArguments, epochs_to_steps
from recipe.train.schedules import UNLIMITED_STEPS, TimeBudget, resolve_schedule

WSD = {"lr_scheduler_type": "warmup_stable_decay"}


def arguments(folder, **more):
    settings = {"max_steps": 100, "warmup_steps": 10, "learning_rate": 1.0}
    return PretrainArguments(output_dir=str(folder), use_cpu=True, **settings | more)


def rates(args):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    steps, warmup = args.max_steps, args.get_warmup_steps(args.max_steps)
    schedule = schedules.build_schedule(args.lr_scheduler_type, optimizer, warmup, steps, args.lr_scheduler_kwargs)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("decay", [0.2, 20])
def test_warmup_stable_decay_is_reachable_from_the_command_line(tmp_path, decay):
    kwargs = f'{{"num_decay_steps": {decay}, "decay_type": "linear"}}'
    argv = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "100", "--learning_rate", "1"]
    argv += ["--warmup_steps", "10", "--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", kwargs]
    (args,) = parse((PretrainArguments,), argv)
    resolve_schedule(args)
    found = rates(args)
    assert found[:11] == pytest.approx([n / 10 for n in range(11)])
    assert set(found[11:80]) == {1.0}
    assert found[80:] == pytest.approx([1 - n / 20 for n in range(20)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WSD, r"warmup_stable_decay with no num_decay_steps, expected steps, or a fraction of them below 1: --lr_sch"),
        (WSD | {"lr_scheduler_kwargs": {"num_decay_steps": 0}}, "with num_decay_steps 0"),
        (WSD | {"lr_scheduler_kwargs": {"num_decay_steps": 95}}, "10 steps of warm-up and 95 of decay, expected 100"),
        (WSD | {"lr_scheduler_kwargs": {"num_decay_steps": 5, "decay_type": "fast"}}, "Unknown decay type: fast"),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 5}}, "for linear: .*unexpected keyword argument"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 5},
            "which follows a metric: use linear",
        ),
        ({"lr_scheduler_type": "inverse_sqrt", "max_hours": 1}, "which never ends: use linear"),
        (
            WSD | {"lr_scheduler_kwargs": {"num_decay_steps": 5}, "max_hours": 1},
            "expected a fraction of the time below 1",
        ),
    ],
)
def test_invalid_schedules_are_refused(tmp_path, settings, message):
    args = arguments(tmp_path, **settings)
    with pytest.raises(UserError, match=message) as error:
        resolve_schedule(args, args.max_hours)
    assert "\n" not in str(error.value)


class Drive:
    """Takes steps of `seconds` each under a time budget, as the Trainer does, and records the learning rates."""

    def __init__(self, args, seconds, saved=None):
        self.now, self.seconds, self.rates = 1000.0 * seconds, seconds, []
        steps = epochs_to_steps(args, blocks=1)
        self.budget = TimeBudget(args.max_hours, steps, clock=lambda: self.now)
        self.args, self.optimizer = args, torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
        self.state, self.control = TrainerState(stateful_callbacks=[self.budget]), TrainerControl()
        self.schedule = self.budget.schedule(args, self.optimizer)
        if saved:
            self.state = TrainerState(**saved["trainer"])
            self.schedule.load_state_dict(saved["schedule"])
            self.optimizer.load_state_dict(saved["optimizer"])
        self.budget.on_train_begin(args, self.state, self.control)

    def run(self, steps=10**6):
        while not self.control.should_training_stop and steps:
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.now += self.seconds
            self.optimizer.step()
            self.budget.on_optimizer_step(self.args, self.state, self.control)
            self.schedule.step()
            self.state.global_step += 1
            self.budget.on_step_end(self.args, self.state, self.control)
            steps -= 1
        return self.rates

    def saved(self):
        callbacks = {"TimeBudget": self.budget.state()}
        trainer = {"global_step": self.state.global_step, "stateful_callbacks": callbacks}
        return {"trainer": trainer, "schedule": self.schedule.state_dict(), "optimizer": self.optimizer.state_dict()}


@pytest.mark.parametrize("kind", ["linear", "cosine", "warmup_stable_decay"])
def test_the_schedule_reaches_zero_at_the_end_of_the_time_whatever_the_speed(tmp_path, kind):
    kwargs = {"num_decay_steps": 0.25} if kind == "warmup_stable_decay" else None
    args = arguments(
        tmp_path, max_steps=-1, max_hours=1, lr_scheduler_type=kind, lr_scheduler_kwargs=kwargs, warmup_steps=0.1
    )
    assert epochs_to_steps(args, blocks=1) == UNLIMITED_STEPS
    resolve_schedule(args, args.max_hours)
    fast, slow = Drive(args, 9).run(), Drive(args, 36).run()
    assert (len(fast), len(slow)) == (400, 100)
    assert fast[::4] == pytest.approx(slow)
    assert fast[0] == 0 and max(fast) == pytest.approx(1.0) and 0 < fast[-1] < 0.01
    assert fast[40] == pytest.approx(1.0) and fast[20] == pytest.approx(0.5)  # warm-up takes a tenth of the time


def test_a_warmup_in_steps_is_counted_in_steps_under_a_time_budget(tmp_path):
    args = arguments(tmp_path, max_steps=-1, max_hours=1, warmup_steps=10)
    found = Drive(args, 9).run()
    assert found[:10] == pytest.approx([n / 10 * (1 - n / 400) for n in range(10)])
    assert found[10:] == pytest.approx([1 - n / 400 for n in range(10, 400)])


def test_max_steps_may_end_a_run_before_its_time_budget(tmp_path):
    args = arguments(tmp_path, max_steps=50, max_hours=1, warmup_steps=0)
    found = Drive(args, 9).run()
    assert found == pytest.approx([1 - n / 50 for n in range(50)])


def test_a_resumed_run_adds_the_time_already_spent(tmp_path):
    args = arguments(tmp_path, max_steps=-1, max_hours=1)
    uninterrupted = Drive(args, 9).run()
    drive, found = Drive(args, 9), []
    for steps in (7, 150, 10**6):
        found += drive.run(steps)
        saved = drive.saved()
        drive = Drive(args, 9, saved)
        drive.now += 12345.0  # the time between two processes doesn't count
        drive.budget.began += 12345.0
    assert found == uninterrupted


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_invalid_hours_are_refused(tmp_path, hours):
    with pytest.raises(UserError, match="max_hours"):
        arguments(tmp_path, max_hours=hours)


def test_a_warmup_longer_than_the_run_is_refused(run, tmp_path):
    with pytest.raises(
        UserError, match="found --warmup_steps 5, expected at most the 4 steps of the run: shorten it, or"
    ):
        run("--warmup_steps", "5")
    assert not (tmp_path / "run").exists()
    assert run("--warmup_steps", "4")[0] == 0


def square(share, floor=0.0):
    """(1 - share)^2, scaled to end at `floor`."""
    return floor + (1 - floor) * (1 - share) ** 2


@pytest.mark.parametrize("program", [PretrainArguments, FineTuneArguments])
def test_a_registered_schedule_is_selected_by_name(tmp_path, monkeypatch, program):
    monkeypatch.setitem(schedules.SCHEDULES, "square", square)
    argv = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "100", "--learning_rate", "1"]
    argv += ["--warmup_steps", "10", "--lr_scheduler_type", "square", "--lr_scheduler_kwargs", '{"floor": 0.1}']
    (args,) = parse((program,), argv)
    resolve_schedule(args)
    assert rates(args) == pytest.approx(
        [n / 10 for n in range(10)] + [0.1 + 0.9 * (1 - n / 90) ** 2 for n in range(90)]
    )
    assert args.to_dict()["lr_scheduler_type"] == args.lr_scheduler_type.value == "square"
    args.lr_scheduler_kwargs = {"flor": 0.1}
    with pytest.raises(UserError, match=r"for square: .*unexpected keyword argument 'flor'"):
        resolve_schedule(args)
    with pytest.raises(UserError, match=r"found --lr_scheduler_type squared, expected one of linear, .*, square$"):
        parse((program,), [*argv, "--lr_scheduler_type", "squared"])


def test_a_registered_schedule_follows_a_time_budget(tmp_path, monkeypatch):
    monkeypatch.setitem(schedules.SCHEDULES, "square", square)
    args = arguments(tmp_path, max_steps=-1, max_hours=1, lr_scheduler_type="square", warmup_steps=0.1)
    resolve_schedule(args, args.max_hours)
    found = Drive(args, 9).run()
    assert found[40:] == pytest.approx([(1 - n / 360) ** 2 for n in range(360)])
