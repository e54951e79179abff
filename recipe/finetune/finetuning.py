"""What every fine-tuning shares: the trainer, the counting of its steps, and the record of a score."""

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

SAMPLE_TOKENS = 60  # of the first example, shown on the console


def sum_of_losses(logits: torch.Tensor, labels: torch.Tensor, regression: bool, smoothing: float = 0.0):
    """The sum over examples of cross-entropy in nats, or of squared errors, and the number of examples it sums.

    logits [batch, classes], or [batch, 1] for a regression; labels [batch]. For several choices an example, logits
    [batch, classes, choices] and labels [batch, choices]. IGNORED labels don't count.
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

    A step's loss is the mean over the examples of its global batch, whatever it was cut into (law 1). Every rank
    evaluates the whole split: dev sets are small, and no rank's padding can enter the score.
    """

    args: FineTuneArguments
    train_dataset: Examples  # None in a run that doesn't train; eval_dataset is one without a dev split
    eval_dataset: Examples

    def __init__(self, *args, regression: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of the global batch
        self.regression = regression
        # The task's metrics from what `room_for` gave of the dev split; an evaluation during training logs them.
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
            collate_fn=_as_it_is,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # one of its own: a loader that is made must not move the dropout's draws
        )

    def logits_of(self, model, inputs: dict) -> torch.Tensor:
        """What the model says of a batch, in fp32, as `sum_of_losses` takes it."""
        return model(**inputs)["logits"].float()

    def room_for(self, dataset: Examples) -> np.ndarray:
        """What the logits of a whole split are gathered in, by `keep`."""
        classes = self.model.config.num_labels
        assert classes is not None, "the model has a head"
        return np.zeros((len(dataset), classes), dtype=np.float32)

    def keep(self, room: np.ndarray, dataset: Examples, rows: list[int], logits: np.ndarray) -> None:
        """Puts the logits of a batch, those of `rows`, in their place."""
        room[rows] = logits

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = self.logits_of(model, inputs)
        loss, count = sum_of_losses(logits, labels, self.regression, self.args.label_smoothing_factor)
        # Ranks average their gradients, so each one's share is scaled by their number.
        loss = loss * (self.args.world_size / num_items_in_batch if num_items_in_batch is not None else 1 / count)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if (
            not math.isfinite(norm) and not self.args.fp16
        ):  # its loss scaling skips such steps, the first ones among them
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient norm is {float(norm)}, expected a number: lower "
                "--learning_rate, or look at the checkpoint"
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
        """Predictions come back in the order of the rows, as `room_for` laid them out: logits [rows, classes], fp32."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        dataset = dataloader.dataset
        room = self.room_for(dataset)
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
            self.keep(room, dataset, rows, logits.cpu().numpy())
        if not np.isfinite(room).all():
            raise NonFiniteError("the model's outputs on the dev split are not finite: its score would be of chance")
        metrics = {f"{metric_key_prefix}_loss": total / max(1, counted)} if dataset.labels is not None else {}
        if self.score is not None and dataset is self.eval_dataset:
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in self.score(room).items()}
        return EvalLoopOutput(predictions=room, label_ids=dataset.labels, metrics=metrics, num_samples=len(dataset))


Kind = TypeVar("Kind", bound=FineTuneTrainer)


class TuningConsole(TrainerCallback):
    """A line on the console for each evaluation during training, and one per training log unless --disable_tqdm."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and not args.disable_tqdm and logs and "loss" in logs:
            rate = f"  lr {logs['learning_rate']:.2e}" if "learning_rate" in logs else ""
            say(f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}{rate}")

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if state.is_world_process_zero and state.global_step:
            speed = ("_runtime", "_per_second", "epoch", "_model_preparation_time")
            shown = [f"{k.removeprefix('eval_')} {v:.4g}" for k, v in metrics.items() if not k.endswith(speed)]
            say(f"step {state.global_step}/{state.max_steps}  eval {', '.join(shown)}")


def _as_it_is(batch):
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
    """A fine-tuning whose every part was checked: call `trainer.train`, then `evaluate`, then `record`."""

    suite: ClassVar[Suite]
    data: StartArguments
    args: FineTuneArguments
    rows: object  # the splits, as their room reads them
    origin: Origin
    trainer: FineTuneTrainer
    tokenizer: PreTrainedTokenizerFast
    began: float

    def predict(self, examples: Examples, prefix: str = "eval") -> tuple[np.ndarray, dict[str, float]]:
        """What the trainer's evaluation gives of `examples`: its predictions, and its metrics under `prefix`."""
        output = self.trainer.predict(examples, metric_key_prefix=prefix)
        assert isinstance(output.predictions, np.ndarray) and output.metrics is not None
        return output.predictions, output.metrics

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of each dev split, its loss among them."""
        raise NotImplementedError

    def headline(self) -> str:
        """The metric that stands for the task."""
        raise NotImplementedError

    def sizes(self) -> dict[str, dict]:
        """Of each split but the test: what was used of it, and how large it officially is (`size_of`)."""
        raise NotImplementedError

    def source(self) -> str:
        """Where the data came from."""
        raise NotImplementedError

    def keep_trained(self, metrics: dict[str, float]) -> None:
        """Leaves train_results.json, trainer_state.json and, if it is to be kept, the model in output_dir. Every rank
        calls it."""
        if self.args.should_save:
            samples = {"train_samples": len(self.trainer.train_dataset)}
            write_metrics(Path(self.args.output_dir), "train", metrics | samples)
            self.trainer.save_state()
        if self.args.save_model:
            self.trainer.save_model()

    def write_card(self, scores: dict, say: Callable[[str], None]) -> None:
        """Writes the model card, unless output_dir has a README.md of somebody else's."""
        base = None if is_local(self.data.model_name_or_path) else self.data.model_name_or_path
        if write_tuned_card(Path(self.args.output_dir), self.record(scores), self.suite, base) is None:
            say(f"{self.args.output_dir} has a README.md of its own: no model card is written")

    def write_more(self, folder: Path) -> list[Path]:
        """Writes what else came of the evaluation into `folder`, if anything; returns the files."""
        return []

    def about_the_model(self) -> str:
        """The checkpoint in a line for the console."""
        step = "" if self.origin.step is None else f", step {self.origin.step:,}"
        return f"checkpoint {self.origin.name}{step}, {self.trainer.model.num_parameters():,} parameters"

    def about_the_training(self, unit: str) -> list[str]:
        """What is about to be computed, `unit` by `unit`, and one sample, so that a wrong tokenizer is seen at once."""
        args = self.args
        batch = sequences_per_step(args)
        row = self.trainer.train_dataset.row(0)
        more = " ..." if len(row) > SAMPLE_TOKENS else ""
        return [
            f"training   {args.max_steps:,} steps of {batch} {unit}, peak learning rate {args.learning_rate:g}, "
            f"seed {args.seed}",
            f"sample     {' '.join(self.tokenizer.decode(row[:SAMPLE_TOKENS]).split())}{more}",
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
    """What a record says of one split."""
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
    """A trainer of `kind`, the steps of its run counted."""
    if train is not None:
        _settle_steps(args, train)
    steps_an_epoch = train_batches(train, args, int).steps_an_epoch if train is not None else 1
    trainer = kind(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=dev,
        processing_class=tokenizer,
        callbacks=[RankSeed(), TrueEpoch(steps_an_epoch, 1), TuningConsole()],
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _settle_steps(args: TrainingArguments, train: Examples) -> None:
    """The Trainer sees a run as one long epoch: what is asked for once an epoch is counted in steps."""
    steps_an_epoch = math.ceil(len(train) / sequences_per_step(args))
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * steps_an_epoch))
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if kind in NEEDS_A_METRIC:  # which an evaluation during training has
        require_warmup_within(args)
    else:
        resolve_schedule(args)
    for what in ("eval", "save", "logging"):
        strategy = getattr(args, f"{what}_strategy")
        if strategy == "epoch":
            setattr(args, f"{what}_strategy", type(strategy)("steps"))
            setattr(args, f"{what}_steps", steps_an_epoch)
