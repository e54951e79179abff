"""Atomic checkpoints for a Trainer (invariants 6 and 7): each is staged, then committed, and only then are old ones
deleted. Losses that aren't logged yet are saved with it; DeepSpeed's checkpoints resume on any number of ranks."""

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer

from recipe.model.checkpoints import STAGING, commit, rotate
from recipe.system.errors import UserError
from recipe.system.files import atomic_output, flush, read_json, remove, write_atomically
from recipe.system.progress import Progress
from recipe.train.callbacks import LossSinceLog
from recipe.train.deepspeed import (
    LOAD_UNIVERSAL,
    is_sharded,
    master_weights,
    optimizer_shards,
    restore_groups,
    universal_copy,
)
from recipe.train.ema import MovingAverage
from recipe.train.model_card import write_pretraining_card
from recipe.train.schedules import build_schedule

BYTES_PER_PARAMETER = 12  # of a checkpoint: the weight and Adam's two moments, four bytes each
BYTES_PER_AVERAGE = 4  # and with --ema_decay
FULL_DISK_BYTES = 1 << 20  # torch.save reports a full disk as a wrong position; less free space means a full disk


def checkpoint_bytes(parameters: int, averaged: bool) -> int:
    """Bytes of a checkpoint of a model with so many parameters; `averaged`: with their moving average."""
    return parameters * (BYTES_PER_PARAMETER + BYTES_PER_AVERAGE * averaged)


class AtomicCheckpoints(Trainer):
    """A Trainer whose checkpoints either verify (recipe.system.manifest.damage) or aren't there.

    A full disk raises UserError; earlier checkpoints aren't touched.
    """

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer  # once training has begun
    deepspeed: Any  # DeepSpeed's engine, None without it
    steps_to_keep: Collection[int] = ()  # their checkpoints are exempt from save_total_limit
    average: MovingAverage | None = None
    _saving = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_since_log = LossSinceLog()
        self.add_callback(self.loss_since_log)
        self._stepped = False
        self.progress = Progress("training", unit="steps", done=self._position)
        self._micro_batches = (0, 0)  # (step begun, its micro-batches done)

    @property
    def run_folder(self) -> Path:
        assert self.args.output_dir is not None, "the arguments require it"
        return Path(self.args.output_dir)

    def training_step(self, model, inputs, num_items_in_batch=None):
        if not self._stepped:
            self._stepped = True
            self.loss_since_log.restore(self)
            self.progress.restart()
        loss = super().training_step(model, inputs, num_items_in_batch)
        step, done = self._micro_batches
        self._micro_batches = (self.state.global_step, done + 1 if step == self.state.global_step else 1)
        return loss

    def _position(self) -> float:
        """The steps that are done, with the part of the current one."""
        step, done = self._micro_batches
        part = done / self.args.gradient_accumulation_steps if step == self.state.global_step else 0.0
        return self.state.global_step + min(part, 1.0)

    def train(self, resume_from_checkpoint=None, **kwargs):
        checkpoint = Path(resume_from_checkpoint or "")
        if self.average is not None and resume_from_checkpoint:
            self.average.resumed_from = checkpoint
        if self.is_deepspeed_enabled and optimizer_shards(checkpoint) not in (0, self.args.world_size):
            folder = self.run_folder / STAGING / checkpoint.name
            if self.args.should_save:
                universal_copy(checkpoint, folder)
            self.accelerator.wait_for_everyone()
            self.accelerator.deepspeed_plugin.deepspeed_config["checkpoint"] = LOAD_UNIVERSAL
            resume_from_checkpoint = str(folder)
        with self.progress:
            return super().train(resume_from_checkpoint, **kwargs)

    def _init_training_state(self, max_steps, *args, **kwargs):
        state = super()._init_training_state(max_steps, *args, **kwargs)
        # A loaded state has --save_steps and similar settings of the earlier run.
        self.state.compute_steps(self.args, max_steps)
        self.progress.total = max_steps if self.progress.unit else 1.0  # without a unit: the share of --max_hours
        return state

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            steps, warmup = num_training_steps, self.args.get_warmup_steps(num_training_steps)
            kind, kwargs = self.args.lr_scheduler_type, self.args.lr_scheduler_kwargs
            self.lr_scheduler = build_schedule(kind, optimizer or self.optimizer, warmup, steps, kwargs)
            self._created_lr_scheduler = True
        self._settings = _Settings.of(self.optimizer, self.lr_scheduler)
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint):
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # intact, but of another model or optimizer
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot resume from {checkpoint}: its optimizer or scheduler doesn't fit this run ({reason}): use the "
                "settings that it was saved with, or move it away"
            ) from error
        if is_sharded(self.deepspeed) and checkpoint and self.deepspeed.load_universal_checkpoint():
            restore_groups(self.deepspeed, Path(checkpoint))
        if checkpoint:
            self.follow_schedule(self._settings.restore(self.optimizer, self.lr_scheduler))

    def follow_schedule(self, changed: bool) -> None:
        """Sets the learning rate of the next step from the schedule; `changed` says whether the peak learning rate
        differs from that of the checkpoint's run."""
        scheduler = self.lr_scheduler
        if isinstance(scheduler, LambdaLR):
            pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            scheduler._last_lr = [base * factor(scheduler.last_epoch) for base, factor in pairs]
            for group, rate in zip(self.optimizer.param_groups, scheduler._last_lr, strict=True):
                group["lr"] = rate

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / STAGING) if self._saving else folder

    def _save_checkpoint(self, model, trial):
        run = self.run_folder
        name = f"checkpoint-{self.state.global_step}"
        # Old checkpoints are deleted below, once the new one is committed, not by the Trainer.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._saving = True
        self.loss_since_log.before_save(self)
        try:
            if self.args.should_save:
                remove(run / STAGING)
                (run / STAGING).mkdir()
            self.accelerator.wait_for_everyone()
            with Progress(f"saving {name}"):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    commit(run / STAGING / name, run / name, self.args.world_size)
                    write_pretraining_card(run / name)
        except Exception as error:  # safetensors, torch and the system report a full disk differently
            raise self._save_error(run, name, error) from error
        finally:
            self._saving = False
            self.args.save_total_limit = limit
            if self.args.should_save:
                shutil.rmtree(run / STAGING, ignore_errors=True)
        if self.args.should_save:
            rotate(run, limit, newest=run / name, to_keep=self.steps_to_keep)
        self.accelerator.wait_for_everyone()

    def _save_error(self, run: Path, name: str, error: Exception) -> Exception:
        free = shutil.disk_usage(run).free
        if "No space left" not in str(error) and free > FULL_DISK_BYTES:
            return error
        staged = sum(path.stat().st_size for path in (run / STAGING).rglob("*") if path.is_file())
        needed = checkpoint_bytes(self.model.num_parameters(), self.average is not None)
        return UserError(
            f"no space left to save {run / name}: it takes {needed:,} bytes and more, {free + staged:,} are free. The "
            "checkpoints before it are intact: free some space and run the same command again"
        )

    def save_metrics(self, split, metrics, combined=True):
        """As in Trainer, but the files are written atomically, and a damaged all_results.json is replaced."""
        if not self.is_world_process_zero():
            return
        run = self.run_folder
        written = {f"{split}_results.json": metrics}
        if combined:
            written["all_results.json"] = (read_json(run / "all_results.json") or {}) | metrics
        for name, content in reversed(written.items()):
            write_atomically(run / name, json.dumps(content, indent=4, sort_keys=True).encode())

    def save_state(self):
        """As in Trainer, but the file is written atomically."""
        if self.is_world_process_zero():
            with atomic_output(self.run_folder / "trainer_state.json") as partial:
                self.state.save_to_json(str(partial))

    def save_model(self, output_dir=None, _internal_call=False):
        if not is_sharded(self.deepspeed):
            with Progress("saving the model"):
                super().save_model(output_dir, _internal_call)
            return
        weights = master_weights(self.deepspeed)  # every rank has a shard
        if self.args.should_save:
            self._save(output_dir, weights)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        folder = Path(output_dir) if output_dir else self.run_folder
        if self._saving and self.average is not None:
            self.average.save(folder)
        if is_sharded(self.deepspeed):  # the engine's weights are bf16, the saved ones fp32
            self.model.config.dtype = torch.float32
            self.model.config.save_pretrained(folder)
        # A pickle that needs this code to be read; run.json has the same settings.
        (folder / "training_args.bin").unlink(missing_ok=True)
        if not self._saving:  # a staged checkpoint is flushed at its commit
            for file in folder.iterdir():
                if file.is_file():
                    flush(file)


@dataclass
class _Settings:
    """This run's settings of optimizer and schedule; loading a checkpoint overwrites them with those of its own run."""

    groups: list[dict]
    rates: list[float]

    NAMES = ("initial_lr", "weight_decay", "betas", "eps", "momentum")  # other entries of a group may be state

    @classmethod
    def of(cls, optimizer, scheduler) -> "_Settings":
        groups = [{name: group[name] for name in cls.NAMES if name in group} for group in optimizer.param_groups]
        return cls(groups, list(getattr(scheduler, "base_lrs", [])))

    def restore(self, optimizer, scheduler) -> bool:
        """Restores them; returns whether the schedule's peak learning rate differs from the loaded one."""
        for group, settings in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(settings)
        changed = self.rates != list(getattr(scheduler, "base_lrs", []))
        if self.rates:
            scheduler.base_lrs = list(self.rates)
        return changed
