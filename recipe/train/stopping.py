"""Stopping a run: what SIGTERM, SIGUSR1 and Ctrl-C do during training, and what they say at once."""

import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path
from statistics import fmean

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerControl

from recipe.model.checkpoints import STAGING
from recipe.system.errors import CTRL_C_EXIT_CODE
from recipe.system.progress import duration, say
from recipe.system.signals import PromptHandler, exit_now, handle

RECENT_STEPS = 5


class StopSignals(TrainerCallback):
    """On SIGTERM, SIGUSR1 or Ctrl-C, completes the current step, saves a checkpoint and stops every rank at that step;
    during an evaluation or a save, stops after these.

    The first rank says at once after which step and in how long, from the measured time of recent steps. A second
    Ctrl-C ends the process at once with exit code 130: steps since the last checkpoint are lost, and nothing incomplete
    stays. A second SIGTERM or SIGUSR1, which schedulers send, changes nothing.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        # Those of the Trainer, from the beginning of training.
        self.args: TrainingArguments
        self.state: TrainerState
        self.control: TrainerControl
        self.saved = 0  # the step of the last checkpoint
        self.began = 0.0  # of the step, or of what follows it
        self.in_step = False
        self.micro_batches = 0  # of the step, done
        self.steps: deque[float] = deque(maxlen=RECENT_STEPS)  # seconds each
        self.evaluation = 0.0  # seconds, of the last one
        self.earlier: dict = {}  # handlers
        self.answered = False

    # ---- what is measured

    def on_train_begin(self, args, state, control, **kwargs):
        self.args, self.state, self.control, self.saved = args, state, control, state.global_step
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        self.earlier = handle(numbers, PromptHandler(self.answer, self._remember))

    def on_step_begin(self, args, state, control, **kwargs):
        self.began, self.in_step, self.micro_batches = time.monotonic(), True, 0

    def on_substep_end(self, args, state, control, **kwargs):
        self.micro_batches += 1

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        self.steps.append(now - self.began)
        self.began, self.in_step = now, False
        self._stop_if_received(args, state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluation, self.began = time.monotonic() - self.began, time.monotonic()
        if self.earlier:  # during training
            self._stop_if_received(args, state, control)

    def on_save(self, args, state, control, **kwargs):
        self.saved = state.global_step
        if self._stop_if_received(args, state, control):
            control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        # What follows can be repeated: Ctrl-C ends it as it does before training.
        signal.signal(signal.SIGINT, self.earlier.pop(signal.SIGINT))
        self.earlier = {}

    # ---- what is done

    def _remember(self, number: signal.Signals) -> None:
        self.received = self.received or number

    def _stop_if_received(self, args, state, control) -> bool:
        if state.global_step >= state.max_steps or not self._any_rank_received(args):
            return False
        control.should_save = control.should_training_stop = True
        self.received = self.received or signal.SIGTERM
        return True

    def _any_rank_received(self, args) -> bool:
        if args.world_size == 1:
            return self.received is not None
        received = torch.tensor(float(self.received is not None), device=args.device)
        torch.distributed.all_reduce(received)
        return bool(received.item())

    # ---- what is said

    def answer(self, number: signal.Signals) -> None:
        """Called in the thread of recipe.system.signals for each signal."""
        again, self.answered = self.answered, True
        if again and number != signal.SIGINT:
            return
        if not again:
            self._say(self.outlook())
            return
        if self.args.should_save:
            shutil.rmtree(Path(str(self.args.output_dir)) / STAGING, ignore_errors=True)
        start = f"checkpoint-{self.saved}" if self.saved else "the beginning"
        self._say(f"stopped at once: the same command continues from {start}")
        exit_now(CTRL_C_EXIT_CODE)

    def _say(self, text: str) -> None:
        if self.args.process_index == 0:
            say(text, sys.stderr)

    def outlook(self) -> str:
        """When this run will stop, and what a second Ctrl-C would cost."""
        step, left = self.state.global_step + self.in_step, self.seconds_left()
        when = f"stopping after step {step:,}"
        if step >= self.state.max_steps:
            when = f"step {step:,} is the last one and is completed"
        elif not self.in_step and self.control.should_evaluate:
            when += " and its evaluation"
        when += "" if left is None else f", in about {duration(max(1.0, left))}"
        lost = self.state.global_step - self.saved
        cost = f"loses {lost:,} step{'s' * (lost != 1)}" if lost else "loses nothing but the step begun"
        return f"{when}; Ctrl-C again: at once, which {cost}"

    def seconds_left(self) -> float | None:
        """Until the current step, or the evaluation after it, is done; None where nothing was measured yet."""
        elapsed = time.monotonic() - self.began
        if not self.in_step:
            return self.evaluation - elapsed if self.evaluation and self.control.should_evaluate else None
        if self.steps:
            return fmean(self.steps) - elapsed
        done, of = self.micro_batches, self.args.gradient_accumulation_steps
        return elapsed / done * (of - done) if done else None
