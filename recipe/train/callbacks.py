"""Callbacks of a run: seeds, saves, epochs and log.jsonl."""

import json
import math
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from recipe.system.files import write_atomically
from recipe.system.secrets import redact_all
from recipe.train.stages import Stages


class RankSeed(TrainerCallback):
    """Seeds each rank's generator differently once the weights are initialised: dropout must not repeat across ranks.

    A resumed run restores its random states after this."""

    def on_train_begin(self, args, state, control, **kwargs):
        torch.manual_seed(args.seed + 1_000_003 * args.process_index)


class SaveAt(TrainerCallback):
    """Saves a checkpoint after each of these steps, whatever --save_steps says."""

    def __init__(self, steps: Collection[int]):
        self.steps = frozenset(steps)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            control.should_save = True


class EpochEnds(TrainerCallback):
    """Logs, evaluates and saves once per epoch (--logging_strategy, --eval_strategy and --save_strategy epoch): after
    the step that completes a pass over the training tokens, and after the last step. To the Trainer the whole run is
    one epoch, so these settings of `args` are set to "no" and handled here."""

    def __init__(self, args: TrainingArguments, stages: Stages, tokens_per_epoch: int):
        self.stages, self.tokens_per_epoch = stages, tokens_per_epoch
        self.actions = [action for action in ("log", "evaluate", "save") if self._take_over(args, action)]

    @staticmethod
    def _take_over(args: TrainingArguments, action: str) -> bool:
        setting = {"log": "logging_strategy", "evaluate": "eval_strategy", "save": "save_strategy"}[action]
        strategy = getattr(args, setting)
        if strategy != "epoch":
            return False
        setattr(args, setting, type(strategy)("no"))
        return True

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        before, now = (self.stages.tokens_before(s) // self.tokens_per_epoch for s in (step - 1, step))
        if now == before and step < state.max_steps:
            return
        for action in self.actions:
            if action != "evaluate" or args.eval_delay <= now:
                setattr(control, f"should_{action}", True)


class FirstStep(TrainerCallback):
    """Calls `action` once, on the first rank, when everything is ready for the first step of this process."""

    def __init__(self, action: Callable[[], None]):
        self.action: Callable[[], None] | None = action

    def on_step_begin(self, args, state, control, **kwargs):
        if self.action and state.is_world_process_zero:
            self.action()
        self.action = None

    on_train_end = on_step_begin


class TrueEpoch(TrainerCallback):
    """Makes state.epoch count passes over the corpus; to the Trainer the whole run is one epoch."""

    def __init__(self, sequences_per_epoch: int, sequences_per_step: int):
        self.epochs_per_step = sequences_per_step / sequences_per_epoch

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step * self.epochs_per_step


class Progress(TrainerCallback):
    """Makes state.epoch count passes over the training tokens, and state.num_input_tokens_seen the tokens so far."""

    def __init__(self, stages: Stages, tokens_per_epoch: int):
        self.stages, self.tokens_per_epoch = stages, tokens_per_epoch

    def on_step_end(self, args, state, control, **kwargs):
        state.num_input_tokens_seen = self.stages.tokens_before(state.global_step)
        state.epoch = state.num_input_tokens_seen / self.tokens_per_epoch


class SourceEpochs(TrainerCallback):
    """Adds to each training log of a mixture how often each of its sources was passed over: epoch_NAME."""

    def __init__(self, epochs: Callable[[int], dict[str, float]]):
        self.epochs = epochs

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is not None and "loss" in logs:
            logs |= {f"epoch_{name}": round(seen, 4) for name, seen in self.epochs(state.global_step).items()}


class LossSinceLog(TrainerCallback, ExportableState):
    """Keeps the sum of the losses since the last log in trainer_state.json, so that the first log after a resume
    reports the same mean as an uninterrupted run."""

    NAME = "LossSinceLog"

    def __init__(self):
        self.pending = {"sum": 0.0, "since": 0}

    def state(self) -> dict:
        """What transformers saves in trainer_state.json."""
        return {"args": {}, "attributes": self.pending}

    def before_save(self, trainer) -> None:
        """Called on every rank before a checkpoint is saved."""
        mean = trainer.accelerator.reduce(trainer._tr_loss.clone(), "mean").item()
        self.pending = {"sum": mean, "since": trainer._globalstep_last_logged}

    def restore(self, trainer) -> None:
        """Called before the first step of this process."""
        pending = trainer.state.stateful_callbacks.get(self.NAME, {}).get("attributes")
        if pending:
            trainer._tr_loss += pending["sum"]
            trainer._globalstep_last_logged = pending["since"]


class JsonLog(TrainerCallback):
    """Writes log.jsonl in the run's folder: one line per log entry, whatever the trackers do. A resumed run removes the
    lines after its checkpoint and writes them again."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                entry = json.loads(line)
                # An interrupted run's training summary covers only a part of the run.
                if entry["step"] <= state.global_step and line.endswith("\n") and "train_loss" not in entry:
                    kept.append(line)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line cut short by a kill, or damaged later
        write_atomically(self.path, "".join(kept).encode())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            with self.path.open("a") as stream:
                line = {name: _as_json(value) for name, value in {"step": state.global_step, **(logs or {})}.items()}
                stream.write(json.dumps(redact_all(line)) + "\n")


def _as_json(value):
    """None for NaN and infinity, which JSON doesn't have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
