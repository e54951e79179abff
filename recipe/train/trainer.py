"""The training loop: transformers' Trainer, overridden only where an invariant requires it.

It differs from the Trainer as follows: a step's loss is the mean over all predicted tokens of its global batch; data
comes in the order of recipe.data.order and the stages of recipe.train.stages, and a resumed run seeks to its step;
evaluation stores sums, no logits; checkpoints are committed atomically (recipe.train.saving); a non-finite gradient
stops the run before it changes the weights.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from recipe.data.blocks import OrderedBlocks
from recipe.data.order import MicroBatches
from recipe.model.checkpoints import checkpoints
from recipe.model.flops import flops_per_token
from recipe.model.metrics import METRICS
from recipe.objective.unigram import UnigramBaseline
from recipe.system.progress import track
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.ema import MovingAverage
from recipe.train.optimizers import MuonFactory
from recipe.train.saving import AtomicCheckpoints
from recipe.train.schedules import TimeBudget
from recipe.train.settings import MUON
from recipe.train.stages import Stage, Stages, stages_of

# Peak dense bf16 TFLOP/s (without sparsity) from NVIDIA's data sheets, by a part of the device's name.
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "A10G": 70, "A10": 125, "A40": 150, "A30": 165,
    "L40S": 362, "L40": 181, "L4": 121, "RTX 6000 Ada": 364, "RTX A6000": 155, "4090": 165, "3090": 71,
    "B200": 2250,
}  # fmt: skip


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became NaN or infinite."""


class _BlockLoader(DataLoader):
    dataset: OrderedBlocks
    counted_batches: int = 0  # of an evaluation; later batches only keep the ranks in step
    sources: Sequence[int] = ()  # the source of each of these


class PretrainTrainer(AtomicCheckpoints):
    """Trains a model with the head of `use_masked_only_head` on `MaskedSequences`, or one with that of
    `use_next_token_head` on `NextTokens`.

    `args.max_steps` must be set. `stages` set sequence length and batch size by step; by default there is one stage.
    The stages of a phase take their sequences from that one of `phase_datasets`, by default from the training data.
    Evaluation reports eval_loss (nats per predicted token), eval_perplexity, each of METRICS (eval_masked_accuracy;
    eval_accuracy of a causal model), for a mixture the loss on each source, whose names are `source_names`, and, if a
    `baseline` is given, its loss and accuracy."""

    args: PretrainArguments
    train_dataset: OrderedBlocks  # None in a run that doesn't train; eval_dataset is one that doesn't evaluate
    eval_dataset: OrderedBlocks

    def __init__(
        self,
        *args,
        baseline: UnigramBaseline | None = None,
        stages: Stages | None = None,
        phase_datasets: Sequence[OrderedBlocks] = (),
        source_names: Sequence[str] = ("",),
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of the global batch
        self._loss_shifts_labels = False  # or it wouldn't count the first label of a causal model's sequences
        self.steps_to_keep = self.args.save_at
        if self.args.ema_decay is not None and self.args.should_save:
            self.average = MovingAverage(self.model, self.args.ema_decay)
            self.add_callback(self.average)
        self.baseline = baseline
        self.phase_datasets, self.source_names = phase_datasets, source_names
        self.length = (self.train_dataset or self.eval_dataset).length
        self.stages = stages or stages_of(self.args.max_steps, self.length, sequences_per_step(self.args))
        self.time_budget = TimeBudget(self.args.max_hours, self.args.max_steps) if self.args.max_hours else None
        if budget := self.time_budget:
            self.add_callback(budget)
            self.progress.done, self.progress.unit = (lambda: budget.progress), ""
        self._flops: dict[tuple[int, int], float] = {}  # per token, by sequence length and predicted tokens
        self.peak_flops = self._peak_flops()
        self.skipped_updates = 0
        self._logged_at: tuple[int, float] | None = None  # (step, clock) of the last training log, or of the start
        self._evaluated: tuple[int | None, dict] = (None, {})  # step and metrics of the last evaluation of all its data
        self._paused = 0.0  # seconds of evaluation and saving since _logged_at

    def is_over(self) -> bool:
        """Whether the run has taken its last step."""
        out_of_time = self.time_budget is not None and self.time_budget.progress >= 1.0
        return self.state.global_step >= self.args.max_steps or out_of_time

    # ---- data (invariants 3 and 4)

    def get_train_dataloader(self) -> "DataLoader | _ChainedLoaders":
        loaders = [(stage, self._stage_loader(stage)) for stage in self.stages]
        return loaders[0][1] if len(loaders) == 1 else _ChainedLoaders(loaders, start=lambda: self.state.global_step)

    def _stage_loader(self, stage: Stage) -> _BlockLoader:
        sampler = MicroBatches(
            steps=stage.last,
            micro_batch=stage.batch // (self.args.gradient_accumulation_steps * self.args.world_size),
            accumulation=self.args.gradient_accumulation_steps,
            rank=self.args.process_index,
            ranks=self.args.world_size,
            start=lambda: self.state.global_step,
            first_step=stage.first,
            first_sequence=stage.start,
        )
        return self._loader(self._data_of(stage), sampler)

    def _data_of(self, stage: Stage) -> OrderedBlocks:
        return self.phase_datasets[stage.phase] if self.phase_datasets else self.train_dataset

    def get_eval_dataloader(self, eval_dataset: OrderedBlocks | None = None) -> _BlockLoader:
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        batches = [
            range(start, min(start + size, part.stop))  # of one source
            for part in dataset.parts()
            for start in range(part.start, part.stop, size)
        ]
        mine = batches[rank::ranks]
        # Every rank makes the same number of forward passes, as collectives require; surplus ones are not counted.
        rounds = -(-len(batches) // ranks)
        loader = self._loader(dataset, mine + [range(1)] * (rounds - len(mine)), counted=len(mine))
        firsts = [part.start for part in dataset.parts()]
        loader.sources = [bisect_right(firsts, batch.start) - 1 for batch in mine]
        return loader

    def _loader(self, dataset: OrderedBlocks, batches, counted: int = 0) -> _BlockLoader:
        loader = _BlockLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_identity,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # creating a loader must not advance the generator that dropout uses
        )
        loader.counted_batches = counted
        return loader

    # ---- objective (invariant 1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        # A batch whose only block holds just an end token has no tokens to predict; its sum of losses is 0.
        assert num_items_in_batch is not None, "the Trainer counts the labels of the global batch"
        count = num_items_in_batch
        count = count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)
        # DDP averages the gradients of the ranks, so each rank's loss is scaled by their number.
        loss = outputs["loss"] * (self.args.world_size / count)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._logged_at is None:
            self._logged_at, self._paused = (self.state.global_step, time.monotonic()), 0.0
        loss = super().training_step(model, inputs, num_items_in_batch)
        # A skipped update must not make all later means of the loss NaN; the gradient norm shows non-finite values.
        return loss.nan_to_num(0.0, 0.0, 0.0) if self.args.nonfinite == "skip" else loss

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        if args.optim != MUON:
            return Trainer.get_optimizer_cls_and_kwargs(args, model)
        return MuonFactory, {"args": args}

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.time_budget is not None and self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = self.time_budget.schedule(self.args, optimizer)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def follow_schedule(self, changed: bool) -> None:
        # Evaluating a schedule over time again gives other last bits, so it is only done if the budget or peak changed.
        if self.time_budget is None or self.time_budget.resume_from(self.state) or changed:
            super().follow_schedule(changed)

    def floating_point_ops(self, inputs) -> float:
        return (
            self.flops_per_token(*inputs["input_ids"].shape[1:], *inputs["labels"].shape[1:])
            * inputs["input_ids"].numel()
        )

    def flops_per_token(self, length: int, predicted: int) -> float:
        """Floating-point operations per token of a training step on sequences of `length` tokens, of which so many are
        predicted."""
        if (length, predicted) not in self._flops:
            self._flops[length, predicted] = flops_per_token(self.model, length, predicted)
        return self._flops[length, predicted]

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(norm):
            self._refuse_update(model, float(norm))
        return norm

    def _refuse_update(self, model, norm: float) -> None:
        step = self.state.global_step + 1
        if self.args.nonfinite == "skip":
            self.skipped_updates += 1
            model.zero_grad()
            print(
                f"warning: step {step}: the gradient norm is {norm}; update {self.skipped_updates} skipped", flush=True
            )
            return
        stage = self.stages.at(self.state.global_step)
        blocks = self._data_of(stage).block_ids(self.stages.sequences(self.state.global_step))
        saved = checkpoints(self.run_folder)
        shown = ", ".join(map(str, blocks[:16])) + (" ..." if len(blocks) > 16 else "")
        raise NonFiniteError(
            f"step {step}: the gradient norm is {norm}, expected a number. The weights are those of step {step - 1}; "
            f"the last good checkpoint is {saved[-1] if saved else 'none yet'}. Blocks of the batch: {shown}. Lower "
            "--learning_rate or lengthen --warmup_steps; --nonfinite skip drops such updates"
        )

    # ---- evaluation

    def evaluation_loop(
        self,
        dataloader: _BlockLoader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        model = self._wrap_model(self.model, training=False)
        if self.is_deepspeed_enabled and self.deepspeed is not None:
            model = self.deepspeed
        elif not self.accelerator._models:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader  # pyright: ignore[reportAttributeAccessIssue] (None by its type)
        summed = ("loss", *METRICS)
        sources = len(self.source_names)
        by_source = torch.zeros(
            sources, len(summed) + 1, dtype=torch.float64
        )  # the last is the number of predicted tokens
        baseline = torch.zeros(2, dtype=torch.float64)  # sum of losses, number of correct predictions
        for number, batch in enumerate(track(dataloader, "evaluating", len(dataloader), "batches")):
            labels = batch["labels"]
            with torch.no_grad():
                outputs = model(**self._prepare_inputs(batch))
            if number < dataloader.counted_batches:
                counts = [*(outputs[name].item() for name in summed), (labels >= 0).sum().item()]
                by_source[dataloader.sources[number]] += torch.tensor(counts, dtype=torch.float64)
                if self.baseline:
                    baseline += torch.tensor(self.baseline.score(labels), dtype=torch.float64)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        sums = self.accelerator.reduce(torch.cat([by_source.flatten(), baseline]).to(self.args.device), "sum")
        baseline_loss, baseline_correct = sums[-2:].tolist()
        by_source = sums[:-2].reshape(sources, -1)
        loss, *scores, count = by_source.sum(0).tolist()
        prefix = dataloader.dataset.metric_prefix
        metrics = {
            "loss": loss / count,
            "perplexity": _exp(loss / count),
            **{f"{prefix}{name}": score / count for name, score in zip(METRICS, scores, strict=True)},
            f"{prefix}tokens": int(count),
        }
        if sources > 1:
            for name, (own_loss, *_, own_count) in zip(self.source_names, by_source.tolist(), strict=True):
                metrics[f"loss_{name}"] = own_loss / own_count if own_count else math.nan
        if self.baseline:
            metrics |= {"unigram_loss": baseline_loss / count, "unigram_accuracy": baseline_correct / count}
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        nothing: Any = None  # declared an array, and never read
        return EvalLoopOutput(nothing, label_ids=None, metrics=prefixed, num_samples=len(dataloader.dataset))

    def evaluate(self, *args, **kwargs):
        began = time.monotonic()
        metrics = super().evaluate(*args, **kwargs)
        self._paused += time.monotonic() - began
        if not args and not kwargs.keys() - {"ignore_keys"}:
            self._evaluated = (self.state.global_step, dict(metrics))
        return metrics

    def final_evaluation(self) -> dict[str, float]:
        """The metrics after training: those of the last step where it has just been evaluated, since neither weights
        nor data have changed."""
        step, metrics = self._evaluated
        if step == self.state.global_step and not self.args.load_best_model_at_end:
            return metrics
        return self.evaluate()

    def _save_checkpoint(self, model, trial):
        began = time.monotonic()
        super()._save_checkpoint(model, trial)
        self._paused += time.monotonic() - began

    # ---- logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._speed() | {"perplexity": _exp(logs["loss"])}
        elif "train_loss" in logs:
            logs["skipped_updates"] = self.skipped_updates
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        step, now = self.state.global_step, time.monotonic()
        assert self._logged_at is not None, "the first training step sets it"
        logged_step, logged_time = self._logged_at
        seconds = max(now - logged_time - self._paused, 1e-9)
        tokens = self.stages.tokens_before(step)
        rate = (tokens - self.stages.tokens_before(logged_step)) / seconds
        self._logged_at, self._paused = (step, now), 0.0
        speed = {"tokens_seen": tokens, "tokens_per_second": rate}
        if self.peak_flops:
            stage = self.stages.at(step - 1)
            flops = self.flops_per_token(stage.length, self._data_of(stage).count_predicted(stage.length))
            speed["mfu"] = rate * flops / (self.peak_flops * self.args.world_size)
        return speed

    def _peak_flops(self) -> float | None:
        if self.args.peak_tflops:
            return self.args.peak_tflops * 1e12
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        known = next((rate for part, rate in PEAK_TFLOPS.items() if part in name), None)
        return known and known * 1e12


class _ChainedLoaders:
    """The loaders of a run's stages as one; the workers of stages before the first step aren't started."""

    def __init__(self, loaders: list[tuple[Stage, _BlockLoader]], start: Callable[[], int]):
        self.loaders, self.start = loaders, start

    def __len__(self) -> int:
        return sum(len(loader) for _, loader in self.loaders)

    def __iter__(self):
        start = self.start()
        for stage, loader in self.loaders:
            if stage.last > start:
                yield from loader


def _identity(batch):
    return batch


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
