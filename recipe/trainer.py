"""The training loop: transformers' Trainer, overridden only where a law of the recipe needs it.

What differs from the stock loop: a step's loss is the mean over all masked tokens of its global batch; data comes in
the order of recipe.order and a resumed run seeks to its step; evaluation keeps sums and not logits; a checkpoint is
committed whole (recipe.saving); a gradient that isn't finite stops the run before it touches the weights.
"""

import math
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from recipe.arguments import sequences_a_step
from recipe.batches import MaskedSequences
from recipe.checkpoints import checkpoints
from recipe.model import flops_per_token
from recipe.order import MicroBatches
from recipe.saving import WholeCheckpoints
from recipe.unigram import UnigramBaseline

# Dense bf16 rates of the makers' data sheets, TFLOP/s without sparsity, by a part of the device's name.
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "A10G": 70, "A10": 125, "A40": 150, "A30": 165,
    "L40S": 362, "L40": 181, "L4": 121, "RTX 6000 Ada": 364, "RTX A6000": 155, "4090": 165, "3090": 71,
    "B200": 2250,
}  # fmt: skip


class NonFiniteError(FloatingPointError):
    """The loss or a gradient became NaN or infinite."""


class PretrainTrainer(WholeCheckpoints, Trainer):
    """Trains a model that `use_masked_only_head` was applied to on `MaskedSequences`.

    `args.max_steps` must be set. Evaluation reports eval_loss (nats a masked token), eval_perplexity,
    eval_masked_accuracy and, if a `baseline` is given, the same two figures of the unigram guess.
    """

    def __init__(self, *args, baseline: UnigramBaseline | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of the global batch
        self.baseline = baseline
        sequences: MaskedSequences = self.train_dataset or self.eval_dataset
        self.length = sequences.blocks.length
        self.flops_per_token = flops_per_token(self.model, self.length, sequences.masking.masked_per_block(self.length))
        self.peak_flops = self._peak_flops()
        self.skipped_updates = 0
        self._logged_at: tuple[int, float] | None = None  # (step, clock) of the last training log, or of the start
        self._paused = 0.0  # seconds since then that went to evaluation and saving

    # ---- data (laws 3 and 4)

    def get_train_dataloader(self) -> DataLoader:
        sampler = MicroBatches(
            steps=self.args.max_steps,
            micro_batch=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            rank=self.args.process_index,
            ranks=self.args.world_size,
            start=lambda: self.state.global_step,
        )
        return self._loader(self.train_dataset, sampler)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        starts = range(rank * size, len(dataset), ranks * size)
        ranges = [range(start, min(start + size, len(dataset))) for start in starts]
        # Every rank makes the same number of forward passes; what it makes in excess is not counted.
        rounds = -(-len(dataset) // (size * ranks))
        return self._loader(dataset, ranges + [range(1)] * (rounds - len(ranges)), counted=len(ranges))

    def _loader(self, dataset: MaskedSequences, batches, counted: int | None = None) -> DataLoader:
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # one of its own: a loader that is made must not move the dropout's draws
        )
        loader.counted_batches = counted
        return loader

    # ---- objective (law 1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        # Ranks average their gradients, so each one's share is scaled by their number.
        loss = outputs["loss"] * (self.args.world_size / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self._logged_at is None:
            self._logged_at, self._paused = (self.state.global_step, time.monotonic()), 0.0
        loss = super().training_step(model, inputs, num_items_in_batch)
        # A skipped update must not turn every later mean into NaN; what isn't finite shows in the gradient norm.
        return loss.nan_to_num(0.0, 0.0, 0.0) if self.args.nonfinite == "skip" else loss

    def floating_point_ops(self, inputs) -> float:
        return self.flops_per_token * inputs["input_ids"].numel()

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
        first = self.state.global_step * sequences_a_step(self.args)
        blocks = self.train_dataset.block_ids(range(first, first + sequences_a_step(self.args)))
        saved = checkpoints(Path(self.args.output_dir))
        shown = ", ".join(map(str, blocks[:16])) + (" ..." if len(blocks) > 16 else "")
        raise NonFiniteError(
            f"step {step}: the gradient norm is {norm}, expected a number. The weights are those of step {step - 1}; "
            f"the last good checkpoint is {saved[-1] if saved else 'none yet'}. Blocks of the batch: {shown}. Lower "
            "--learning_rate or lengthen --warmup_steps; --nonfinite skip drops such updates"
        )

    # ---- evaluation

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        model = self._wrap_model(self.model, training=False)
        if self.is_deepspeed_enabled and self.deepspeed is not None:
            model = self.deepspeed
        elif not self.accelerator._models:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        totals = torch.zeros(3, dtype=torch.float64)  # loss in nats, correct, masked tokens
        guessed = torch.zeros(2, dtype=torch.float64)  # the baseline's loss and correct
        for number, batch in enumerate(dataloader):
            labels = batch["labels"]
            with torch.no_grad():
                outputs = model(**self._prepare_inputs(batch))
            if number < dataloader.counted_batches:
                counts = (outputs["loss"].item(), outputs["correct"].item(), (labels >= 0).sum().item())
                totals += torch.tensor(counts, dtype=torch.float64)
                if self.baseline:
                    guessed += torch.tensor(self.baseline.score(labels), dtype=torch.float64)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        sums = self.accelerator.reduce(torch.cat([totals, guessed]).to(self.args.device), "sum").tolist()
        loss, correct, count, guessed_loss, guessed_correct = sums
        metrics = {
            "loss": loss / count,
            "perplexity": _exp(loss / count),
            "masked_accuracy": correct / count,
            "masked_tokens": int(count),
        }
        if self.baseline:
            metrics |= {"unigram_loss": guessed_loss / count, "unigram_accuracy": guessed_correct / count}
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=prefixed, num_samples=len(dataloader.dataset))

    def evaluate(self, *args, **kwargs):
        began = time.monotonic()
        metrics = super().evaluate(*args, **kwargs)
        self._paused += time.monotonic() - began
        return metrics

    def _save_checkpoint(self, model, trial):
        began = time.monotonic()
        super()._save_checkpoint(model, trial)
        self._paused += time.monotonic() - began

    # ---- what is logged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._speed() | {"perplexity": _exp(logs["loss"])}
        elif "train_loss" in logs:
            logs["skipped_updates"] = self.skipped_updates
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        tokens_a_step = sequences_a_step(self.args) * self.length
        step, now = self.state.global_step, time.monotonic()
        logged_step, logged_time = self._logged_at
        seconds = max(now - logged_time - self._paused, 1e-9)
        rate = (step - logged_step) * tokens_a_step / seconds
        self._logged_at, self._paused = (step, now), 0.0
        speed = {"tokens_seen": step * tokens_a_step, "tokens_per_second": rate}
        if self.peak_flops:
            speed["mfu"] = rate * self.flops_per_token / (self.peak_flops * self.args.world_size)
        return speed

    def _peak_flops(self) -> float | None:
        if self.args.peak_tflops:
            return self.args.peak_tflops * 1e12
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        known = next((rate for part, rate in PEAK_TFLOPS.items() if part in name), None)
        return known and known * 1e12


def _as_it_is(batch):
    return batch


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
