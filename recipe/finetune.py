"""One fine-tuning: a checkpoint, a task and a seed become a model and the record of its score."""

import importlib.metadata
import math
import platform
import time
import warnings
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

import evaluate
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from recipe.callbacks import RankSeed, TrueEpoch
from recipe.classifier import Origin, build_classifier, config_of, origin_of, tokenizer_of
from recipe.errors import UserError
from recipe.examples import IGNORED, Examples, FineTuneBatches, evaluation_batches, tokenise
from recipe.glue import task_called
from recipe.glue_arguments import FineTuneArguments, GlueArguments
from recipe.glue_rows import Rows, TaskRows, from_frames, read_files, read_glue
from recipe.hub import require_hub
from recipe.trainer import NonFiniteError

METRIC = Path(__file__).resolve().parent.parent / "metrics" / "glue"
PACKAGES = ("torch", "transformers", "tokenizers", "evaluate", "scikit-learn", "scipy", "numpy")
# Settings of TrainingArguments that decide what a fine-tuning computes; the record keeps them.
SETTINGS = (
    "per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs max_steps warmup_steps "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor bf16 fp16"
)


def sum_of_losses(logits: torch.Tensor, labels: torch.Tensor, regression: bool, smoothing: float = 0.0):
    """The sum over examples of cross-entropy in nats, or of squared errors, and the number of examples it sums.

    logits [batch, classes], or [batch, 1] for a regression; labels [batch], IGNORED ones don't count.
    """
    if not regression:
        loss = functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
    else:
        loss = ((logits.squeeze(-1) - labels) ** 2 * (labels != IGNORED)).sum()
    return loss, (labels != IGNORED).sum()


class FineTuneTrainer(Trainer):
    """Trains a classifier on `Examples`; `args.max_steps` must be set.

    A step's loss is the mean over the examples of its global batch, whatever it was cut into (law 1). Every rank
    evaluates the whole split: dev sets are small, and no rank's padding can enter the score.
    """

    def __init__(self, *args, regression: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of the global batch
        self.regression = regression

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, train_batches(self.train_dataset, self.args, self._step))

    def _step(self) -> int:
        return self.state.global_step

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._loader(dataset, evaluation_batches(dataset.lengths, self.args.per_device_eval_batch_size))

    get_test_dataloader = get_eval_dataloader

    def _loader(self, dataset: Examples, batches) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),  # one of its own: a loader that is made must not move the dropout's draws
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss, count = sum_of_losses(
            outputs["logits"].float(), labels, self.regression, self.args.label_smoothing_factor
        )
        # Ranks average their gradients, so each one's share is scaled by their number.
        loss = loss * (self.args.world_size / num_items_in_batch if num_items_in_batch is not None else 1 / count)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient norm is {float(norm)}, expected a number: lower "
                "--learning_rate, or look at the checkpoint"
            )
        return norm

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """Predictions come back in the order of the rows, logits [rows, classes] in fp32."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        dataset: Examples = dataloader.dataset
        logits = np.zeros((len(dataset), model.config.num_labels), dtype=np.float32)
        total = 0.0
        for rows, batch in zip(dataloader.batch_sampler, dataloader, strict=True):
            inputs = self._prepare_inputs(batch)
            labels = inputs.pop("labels", None)
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**inputs)["logits"].float()
            if labels is not None:
                total += sum_of_losses(output, labels, self.regression)[0].item()
            logits[rows] = output.cpu().numpy()
        if not np.isfinite(logits).all():
            raise NonFiniteError("the model's outputs on the dev split are not finite: its score would be of chance")
        metrics = {}
        if dataset.labels is not None:
            metrics = {f"{metric_key_prefix}_loss": total / len(dataset)}
        return EvalLoopOutput(predictions=logits, label_ids=dataset.labels, metrics=metrics, num_samples=len(dataset))


def _as_it_is(batch):
    return batch


def train_batches(examples: Examples, args: FineTuneArguments, start) -> FineTuneBatches:
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
    """A fine-tuning whose every part was checked: call `train`, then `evaluate`, then `record`."""

    data: GlueArguments
    args: FineTuneArguments
    rows: TaskRows
    origin: Origin
    trainer: FineTuneTrainer
    tokenizer: object
    began: float

    @property
    def dev_splits(self) -> list[str]:
        return [split for split in self.rows.splits if split.startswith("validation")]

    def examples(self, split: str) -> Examples:
        """A split as the model reads it."""
        return examples_of(self.data, self.rows, split, self.tokenizer, self.trainer.model)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of each dev split, its loss among them."""
        scores = {}
        for split in self.dev_splits:
            output = self.trainer.predict(self.examples(split), metric_key_prefix="eval")
            metrics = score(self.data, self.rows, self.predictions(output.predictions), self.rows.splits[split].labels)
            scores[split] = metrics | {"loss": output.metrics["eval_loss"]}
        return scores

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Class ids int64 [rows], or scores float32 [rows]."""
        return logits.squeeze(-1) if self.rows.regression else logits.argmax(-1)

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        """What the number is, so that nobody has to guess: task, checkpoint, seed, metrics, data and settings."""
        task, args = self.data.task, self.args
        dev = next(iter(scores), None)
        headline = task.headline if task else ("spearmanr" if self.rows.regression else "accuracy")
        return {
            "task": self.data.title,
            "checkpoint": asdict(self.origin),
            "seed": args.seed,
            "headline": {"metric": headline, "split": dev, "value": scores[dev][headline] if dev else None},
            "metrics": scores,
            "selected_on_dev": False,  # the score is of the last step; no checkpoint was chosen by it
            "started_from_mnli": self.data.mnli_model,
            "examples": {split: self._sizes(split) for split in self.rows.splits if not split.startswith("test")},
            "source": self.data.glue_data if task else self.data.title,
            "settings": {
                **{name: getattr(args, name) for name in SETTINGS.split()},
                "devices": args.world_size,
                "optim": str(getattr(args.optim, "value", args.optim)),
                "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
                "max_seq_length": self.data.max_seq_length,
                "pad_to_max_length": self.data.pad_to_max_length,
            },
            "seconds": round(time.monotonic() - self.began, 2),
            "versions": {"python": platform.python_version()}
            | {package: importlib.metadata.version(package) for package in PACKAGES},
        }

    def _sizes(self, split: str) -> dict:
        rows = self.rows.splits[split]
        official = self.data.task.sizes.get(split) if self.data.task else None
        return {
            "used": len(rows),
            "official": official,
            "subset": official is not None and len(rows) < official,
            "skipped": rows.skipped,
            "file": rows.source,
            "sha256": rows.digest,
        }


def prepare(data: GlueArguments, args: FineTuneArguments) -> FineTuning:
    """Reads, tokenises and checks everything, and builds model and trainer.

    Raises UserError for whatever is wrong with data, checkpoint, tokenizer or settings.
    """
    began = time.monotonic()
    args.settle(data.task)
    origin = origin_of(data)
    tokenizer = tokenizer_of(data)
    rows = rows_of(data, args)
    config = config_of(data, tokenizer, rows.labels)
    set_seed(args.seed)
    model = build_classifier(data, config, args.seed)
    train = examples_of(data, rows, "train", tokenizer, model) if args.do_train else None
    if train is not None:
        _settle_steps(args, train)
    steps_an_epoch = train_batches(train, args, int).steps_an_epoch if train is not None else 1
    trainer = FineTuneTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=next(
            (examples_of(data, rows, s, tokenizer, model) for s in rows.splits if s.startswith("validation")), None
        ),
        processing_class=tokenizer,
        regression=rows.regression,
        callbacks=[RankSeed(), TrueEpoch(steps_an_epoch, 1)],
    )
    trainer.remove_callback(PrinterCallback)
    if args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
    return FineTuning(data, args, rows, origin, trainer, tokenizer, began)


def _settle_steps(args: FineTuneArguments, train: Examples) -> None:
    """The Trainer sees a run as one long epoch: what is asked for once an epoch is counted in steps."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps_an_epoch = math.ceil(len(train) / batch)
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * steps_an_epoch))
    for what in ("eval", "save", "logging"):
        strategy = getattr(args, f"{what}_strategy")
        if strategy == "epoch":
            setattr(args, f"{what}_strategy", type(strategy)("steps"))
            setattr(args, f"{what}_steps", steps_an_epoch)


def rows_of(data: GlueArguments, args: FineTuneArguments) -> TaskRows:
    """The splits that this run needs, cut to the samples that were asked for.

    Raises UserError where one that it can't do without is missing.
    """
    task = data.task
    dev = task.dev_splits if task else ("validation",)
    test = task.test_splits if task else ("test",)
    wanted = (("train",) * args.do_train) + (dev * args.do_eval) + (test * args.do_predict)
    if task and task.name == "ax" and (args.do_train or args.do_eval):
        raise UserError("AX has a test file alone: --do_predict with the MNLI model as --model_name_or_path")
    options = tuple(data.hub_options().items())
    if task:
        rows = _glue(task.name, data.glue_data, wanted, options)
    elif data.train_file:
        files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
        rows = read_files(files)
    else:
        rows = _hub(data.dataset_name, data.dataset_config_name, options)
    # MNLI without its mismatched half is still MNLI; the missing cell of the table says so.
    for needed, doing in ((("train",), args.do_train), (dev, args.do_eval), (test, args.do_predict)):
        if doing and not any(split in rows.splits for split in needed):
            where = data.glue_data if task else data.title
            raise UserError(f"{where} has no {needed[0]} split of {data.title}: add its file, or leave the task out")
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    cut = {split: r.first(limits[split.split("_")[0]]) for split, r in rows.splits.items() if split in wanted}
    if "train" in cut and cut["train"].labels is None:
        raise UserError(f"{cut['train'].source} has no labels: expected some to train on")
    return TaskRows(cut, rows.labels)


@lru_cache(maxsize=4)
def _glue(name: str, source: str, splits: tuple[str, ...], options: tuple) -> TaskRows:
    return read_glue(task_called(name), source, splits, **dict(options))


@lru_cache(maxsize=2)
def _hub(name: str, config: str | None, options: tuple) -> TaskRows:
    require_hub(f"dataset {name}", "files of your own as --train_file and --validation_file")
    from datasets import load_dataset

    chosen = {key: value for key, value in options if key in ("cache_dir", "token")}
    try:
        data = load_dataset(name, config, **chosen)
    except Exception as error:  # the library raises a dozen classes for "not there" and "no network"
        raise UserError(f"cannot load {name}: {str(error).splitlines()[0]}: pass --train_file instead") from error
    return from_frames({split: part.to_pandas() for split, part in data.items()}, {s: f"{name} {s}" for s in data})


def examples_of(data: GlueArguments, rows: TaskRows, split: str, tokenizer, model: nn.Module) -> Examples:
    """A split of `rows`, tokenised (or found tokenised) under --prepared_dir."""
    part: Rows = rows.splits[split]
    folder = Path(data.prepared_dir).expanduser() / "glue"
    return Examples(
        tokenise(part, tokenizer, data.max_seq_length, folder, data.overwrite_cache),
        part.labels,
        pad_id=tokenizer.pad_token_id,
        regression=rows.regression,
        token_types=getattr(model.config, "type_vocab_size", 1) > 1,
        pad_to=data.max_seq_length if data.pad_to_max_length else None,
    )


@cache
def _metric(config: str):
    return evaluate.load(str(METRIC), config, keep_in_memory=True)


def score(data: GlueArguments, rows: TaskRows, predictions: np.ndarray, labels: list) -> dict[str, float]:
    """The task's metrics of predictions [rows] against labels [rows]."""
    name = data.task.name if data.task else ("regression" if rows.regression else "accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate predictions have defined values there
        return _metric(name).compute(predictions=predictions.tolist(), references=labels)
