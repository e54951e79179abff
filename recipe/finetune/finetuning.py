"""The trainer and the job shared by all fine-tuning suites: loss, evaluation, number of steps, record of scores."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from recipe.finetune.arguments import SETTINGS, FineTuneArguments, StartArguments
from recipe.finetune.examples import IGNORED, Examples, FineTuneBatches, evaluation_batches
from recipe.finetune.model_card import write_tuned_card
from recipe.finetune.results import build_record, write_metrics
from recipe.finetune.starting_point import Origin
from recipe.finetune.suite import Suite
from recipe.system.hub import is_local
from recipe.system.progress import say, track
from recipe.train.arguments import sequences_per_step
from recipe.train.callbacks import RankSeed, TrueEpoch
from recipe.train.saving import AtomicCheckpoints
from recipe.train.schedules import NEEDS_A_METRIC, require_warmup_within, resolve_schedule
from recipe.train.trainer import NonFiniteError

SAMPLE_TOKENS = 60  # tokens of the first example that are printed


def sum_of_losses(logits: torch.Tensor, labels: torch.Tensor, regression: bool, smoothing: float = 0.0):
    """The sum of the examples' losses (cross-entropy in nats, or squared error) and the number of labels summed over.

    logits [batch, classes], or [batch, 1] for a regression; labels [batch]. With several predictions per example:
    logits [batch, classes, n], labels [batch, n]. IGNORED labels don't count.
    """
    if not regression:
        loss = functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
    else:
        loss = ((logits.squeeze(-1) - labels) ** 2 * (labels != IGNORED)).sum()
    return loss, (labels != IGNORED).sum()


class _ExampleLoader(DataLoader):
    dataset: Examples
    batch_sampler: Iterable[list[int]]


class FineTuneTrainer(AtomicCheckpoints):
    """Trains a model on `Examples`; `args.max_steps` must be set.

    A step's loss is the mean over the examples of its global batch, however that is split into micro-batches and ranks
    (invariant 1). Every rank evaluates the whole split: dev sets are small, and no rank's padding enters the score.
    """

    args: FineTuneArguments
    train_dataset: Examples  # None in a run that doesn't train; eval_dataset is one without a dev split
    eval_dataset: Examples

    def __init__(self, *args, regression: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of the global batch
        self.regression = regression
        # Computes the task's metrics from the logits of the dev split; an evaluation during training logs them.
        self.score: Callable[[np.ndarray], dict[str, float]] | None = None

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, train_batches(self.train_dataset, self.args, self._step))

    def _step(self) -> int:
        return self.state.global_step

    def get_eval_dataloader(self, eval_dataset: Examples | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._loader(dataset, evaluation_batches(dataset.lengths, self.args.per_device_eval_batch_size))

    def get_test_dataloader(self, test_dataset: Examples) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, dataset: Examples, batches) -> DataLoader:
        return _ExampleLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_unchanged,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # its own: creating a loader must not advance the generator that dropout uses
        )

    def logits_of(self, model, inputs: dict) -> torch.Tensor:
        """The model's logits for a batch, in fp32 and in the shape that `sum_of_losses` takes."""
        return model(**inputs)["logits"].float()

    def allocate_logits(self, dataset: Examples) -> np.ndarray:
        """An array for the logits of a whole split, filled by `store_logits`: here [rows, classes]."""
        classes = self.model.config.num_labels
        assert classes is not None, "the model has a head"
        return np.zeros((len(dataset), classes), dtype=np.float32)

    def store_logits(self, stored: np.ndarray, dataset: Examples, rows: list[int], logits: np.ndarray) -> None:
        """Writes the logits of a batch, the examples `rows`, into `stored`."""
        stored[rows] = logits

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = self.logits_of(model, inputs)
        loss, count = sum_of_losses(logits, labels, self.regression, self.args.label_smoothing_factor)
        # Gradients are averaged over ranks, hence the factor world_size.
        loss = loss * (self.args.world_size / num_items_in_batch if num_items_in_batch is not None else 1 / count)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(norm) and not self.args.fp16:  # the loss scaling of fp16 skips such steps
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient norm is {float(norm)}, expected a number: lower "
                "--learning_rate, or check the checkpoint"
            )
        return norm

    def evaluation_loop(
        self,
        dataloader: _ExampleLoader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        """Predictions are fp32 logits in the order of the rows, in the shape that `allocate_logits` gives."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        dataset = dataloader.dataset
        stored = self.allocate_logits(dataset)
        total, counted = 0.0, 0
        batches = zip(dataloader.batch_sampler, dataloader, strict=True)
        for rows, batch in track(batches, description.lower(), len(dataloader), "batches"):
            inputs = self._prepare_inputs(batch)
            labels = inputs.pop("labels", None)
            with torch.no_grad(), self.compute_loss_context_manager():
                logits = self.logits_of(model, inputs)
            if labels is not None:
                loss, count = sum_of_losses(logits, labels, self.regression)
                total, counted = total + loss.item(), counted + count.item()
            self.store_logits(stored, dataset, rows, logits.cpu().numpy())
        if not np.isfinite(stored).all():
            raise NonFiniteError("the model's outputs on the dev split are not finite: its score is meaningless")
        metrics = {f"{metric_key_prefix}_loss": total / max(1, counted)} if dataset.labels is not None else {}
        if self.score is not None and dataset is self.eval_dataset:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.score(stored).items()}
        return EvalLoopOutput(predictions=stored, label_ids=dataset.labels, metrics=metrics, num_samples=len(dataset))


Kind = TypeVar("Kind", bound=FineTuneTrainer)


class TuningConsole(TrainerCallback):
    """Prints one line per evaluation during training and, unless --disable_tqdm, one per training log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and not args.disable_tqdm and logs and "loss" in logs:
            rate = f"  lr {logs['learning_rate']:.2e}" if "learning_rate" in logs else ""
            say(f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}{rate}")

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if state.is_world_process_zero and state.global_step:
            speed = ("_runtime", "_per_second", "epoch", "_model_preparation_time")
            shown = [f"{k.removeprefix('eval_')} {v:.4g}" for k, v in metrics.items() if not k.endswith(speed)]
            say(f"step {state.global_step}/{state.max_steps}  eval {', '.join(shown)}")


def _unchanged(batch):
    return batch


def train_batches(examples: Examples, args: TrainingArguments, start) -> FineTuneBatches:
    """The micro-batches of this rank, from the step that `start` returns."""
    return FineTuneBatches(
        examples.lengths,
        steps=args.max_steps,
        micro_batch=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        rank=args.process_index,
        ranks=args.world_size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        start=start,
    )


@dataclass
class FineTuning:
    """A prepared and checked fine-tuning job: call `trainer.train`, then `evaluate`, then `record`."""

    suite: ClassVar[Suite]
    data: StartArguments
    args: FineTuneArguments
    rows: object  # the splits, in the type of the suite
    origin: Origin
    trainer: FineTuneTrainer
    tokenizer: PreTrainedTokenizerFast
    began: float  # time.monotonic() at the start

    def predict(self, examples: Examples, prefix: str = "eval") -> tuple[np.ndarray, dict[str, float]]:
        """Evaluates `examples`: the stored logits, and the metrics, whose names begin with `prefix`."""
        output = self.trainer.predict(examples, metric_key_prefix=prefix)
        assert isinstance(output.predictions, np.ndarray) and output.metrics is not None
        return output.predictions, output.metrics

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{split: metrics} of each dev split, its loss included."""
        raise NotImplementedError

    def headline(self) -> str:
        """The metric that stands for the task in averages and tables."""
        raise NotImplementedError

    def sizes(self) -> dict[str, dict]:
        """{split: size_of(...)} of each split except test."""
        raise NotImplementedError

    def source(self) -> str:
        """The folder, file or hub id that the data came from."""
        raise NotImplementedError

    def save_trained(self, metrics: dict[str, float]) -> None:
        """Writes train_results.json, trainer_state.json and, with --save_model, the model to output_dir. Must be called
        on every rank."""
        if self.args.should_save:
            samples = {"train_samples": len(self.trainer.train_dataset)}
            write_metrics(Path(self.args.output_dir), "train", metrics | samples)
            self.trainer.save_state()
        if self.args.save_model:
            self.trainer.save_model()

    def write_card(self, scores: dict, say: Callable[[str], None]) -> None:
        """Writes the model card, unless output_dir has a README.md that was not written by a fine-tuning."""
        base = None if is_local(self.data.model_name_or_path) else self.data.model_name_or_path
        if write_tuned_card(Path(self.args.output_dir), self.record(scores), self.suite, base) is None:
            say(f"{self.args.output_dir} has its own README.md: no model card is written")

    def write_predictions(self, folder: Path) -> list[Path]:
        """Writes the predictions into `folder`, if the suite has any to write; returns the files."""
        return []

    def describe_model(self) -> str:
        """One line about the checkpoint, to be printed."""
        step = "" if self.origin.step is None else f", step {self.origin.step:,}"
        return f"checkpoint {self.origin.name}{step}, {self.trainer.model.num_parameters():,} parameters"

    def describe_training(self, unit: str) -> list[str]:
        """Lines to be printed: the schedule, with batches counted in `unit`, and the first example decoded, which shows
        a wrong tokenizer at once."""
        args = self.args
        batch = sequences_per_step(args)
        ids = self.trainer.train_dataset.row(0)
        more = " ..." if len(ids) > SAMPLE_TOKENS else ""
        return [
            f"training   {args.max_steps:,} steps of {batch} {unit}, peak learning rate {args.learning_rate:g}, "
            f"seed {args.seed}",
            f"sample     {' '.join(self.tokenizer.decode(ids[:SAMPLE_TOKENS]).split())}{more}",
        ]

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        """The JSON record of the scores: task, checkpoint, seed, metrics, data and settings."""
        args = self.args
        return build_record(
            task=self.data.title,
            origin=self.origin,
            seed=args.seed,
            headline=self.headline(),
            scores=scores,
            started_from=self.data.weights if self.data.weights != self.data.model_name_or_path else None,
            sizes=self.sizes(),
            source=self.source(),
            settings={
                **{name: getattr(args, name) for name in SETTINGS.split()},
                "devices": args.world_size,
                "optim": str(getattr(args.optim, "value", args.optim)),
                "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
                "max_seq_length": self.data.max_seq_length,
                "pad_to_max_length": self.data.pad_to_max_length,
            },
            seconds=time.monotonic() - self.began,
        )


def size_of(rows, official: int | None) -> dict:
    """The entry of one split in a record: examples used, `official` number (None if unknown), file and its sha256."""
    return {
        "used": len(rows),
        "official": official,
        "subset": official is not None and len(rows) < official,
        "skipped": rows.skipped,
        "file": rows.source,
        "sha256": rows.digest,
    }


def build_trainer(
    kind: type[Kind],
    model: PreTrainedModel,
    args: FineTuneArguments,
    tokenizer,
    train: Examples | None,
    dev: Examples | None,
    **more,
) -> Kind:
    """A trainer of class `kind`. Sets `args.max_steps` and converts intervals from epochs to steps. Raises UserError
    for a warm-up longer than the run."""
    if train is not None:
        _count_steps(args, train)
    steps_per_epoch = train_batches(train, args, int).steps_per_epoch if train is not None else 1
    trainer = kind(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=dev,
        processing_class=tokenizer,
        callbacks=[RankSeed(), TrueEpoch(steps_per_epoch, 1), TuningConsole()],
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _count_steps(args: TrainingArguments, train: Examples) -> None:
    """Converts epochs to steps, since the Trainer sees the whole run as one epoch."""
    steps_per_epoch = math.ceil(len(train) / sequences_per_step(args))
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * steps_per_epoch))
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if kind in NEEDS_A_METRIC:  # evaluations during training provide it
        require_warmup_within(args)
    else:
        resolve_schedule(args)
    for event in ("eval", "save", "logging"):
        strategy = getattr(args, f"{event}_strategy")
        if strategy == "epoch":
            setattr(args, f"{event}_strategy", type(strategy)("steps"))
            setattr(args, f"{event}_steps", steps_per_epoch)
