"""Fine-tuning of a checkpoint on a GLUE task or other classification data: model, examples, metrics."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar

import evaluate
import numpy as np
from torch import nn
from transformers import AutoModelForSequenceClassification, set_seed

from recipe.finetune.examples import Examples, tokenise
from recipe.finetune.finetuning import FineTuneTrainer, FineTuning, build_trainer, size_of
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.glue.labels import SavedLabels, output_order, reinitialise_output, reorder_outputs, shown
from recipe.finetune.glue.own_rows import from_tables, read_files
from recipe.finetune.glue.rows import Rows, TaskRows, read_glue
from recipe.finetune.glue.suite import SUITE
from recipe.finetune.glue.tasks import TASKS, task_called
from recipe.finetune.outcomes import PREDICTION, REFERENCE, write_outcomes
from recipe.finetune.starting_point import build_model, config_of, origin_of, saved_labels_of, tokenizer_of, with_labels
from recipe.finetune.suite import Suite
from recipe.finetune.tables import Table
from recipe.system.errors import UserError
from recipe.system.hub import require_hub
from recipe.system.paths import ROOT

METRIC = ROOT / "metrics" / "glue"


@dataclass
class GlueTuning(FineTuning):
    """A fine-tuning on a GLUE task, or on classification data of the user's own."""

    suite: ClassVar[Suite] = SUITE
    data: GlueArguments
    rows: TaskRows
    predicted: dict[str, np.ndarray] = field(default_factory=dict)  # {dev split: predictions}, once it is evaluated

    @property
    def dev_splits(self) -> list[str]:
        return [split for split in self.rows.splits if split.startswith("validation")]

    def examples(self, split: str) -> Examples:
        """A split, tokenised."""
        return examples_of(self.data, self.rows, split, self.tokenizer, self.trainer.model)

    def evaluate(self) -> dict[str, dict[str, float]]:
        scores = {}
        for split in self.dev_splits:
            logits, metrics = self.predict(self.examples(split))
            scores[split] = self.score(split, logits) | {"loss": metrics["eval_loss"]}
            self.predicted[split] = self.predictions(logits)
        return scores

    def write_predictions(self, folder: Path) -> list[Path]:
        """Keeps the prediction and the label of each dev example."""
        labels = {split: np.array(self.rows.splits[split].labels) for split in self.predicted}
        found = {split: {PREDICTION: made, REFERENCE: labels[split]} for split, made in self.predicted.items()}
        return [write_outcomes(folder, found)] if found else []

    def score(self, split: str, logits: np.ndarray) -> dict[str, float]:
        """The task's metrics of the logits of a dev split."""
        labels = self.rows.splits[split].labels
        assert labels is not None, "a dev split has labels"
        return score(self.data, self.rows, self.predictions(logits), labels)

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Class ids int64 [rows], or scores float32 [rows]."""
        return logits.squeeze(-1) if self.rows.regression else logits.argmax(-1)

    def headline(self) -> str:
        if named := self.data.task or self.data.own_task:
            return named.headline
        return "spearmanr" if self.rows.regression else "accuracy"

    def sizes(self) -> dict[str, dict]:
        official = self.data.task.sizes if self.data.task else {}
        splits = self.rows.splits.items()
        return {split: size_of(rows, official.get(split)) for split, rows in splits if not split.startswith("test")}

    def source(self) -> str:
        if own := self.data.own_task:
            return own.dataset or str(own.file)
        return self.data.glue_data if self.data.task else self.data.title

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        own = self.data.own_task
        return super().record(scores) | ({"task_identity": own.identity} if own else {})


def prepare(data: GlueArguments, args: FineTuneArguments, say: Callable[[str], None] = print) -> GlueTuning:
    """Loads and checks data, checkpoint and tokenizer, tokenises, builds model and trainer. `say` prints what was
    derived from the data. Raises UserError for invalid data, checkpoint, tokenizer or settings."""
    began = time.monotonic()
    args.fill_defaults(data.recipe)
    origin = origin_of(data)
    tokenizer = tokenizer_of(data)
    saved = saved_labels_of(data)
    rows = rows_of(data, args, saved)
    report_rows(rows, say)
    fresh_allowed = data.ignore_mismatched_sizes or data.weights != data.model_name_or_path
    order, fresh, note = output_order(saved, rows.labels, fresh_allowed)
    if note:
        say(note)
    if fresh and not args.do_train:
        say(f"warning: {data.weights} has no output layer for these labels: its scores are those of a random one")
    config = with_labels(config_of(data, tokenizer), rows.labels)
    set_seed(args.seed)
    model = build_model(AutoModelForSequenceClassification, data, config, args.seed)
    if order is not None:
        reorder_outputs(model, order)
    if fresh and saved is not None and len(saved.names) == len(rows.labels):
        reinitialise_output(model)  # the number of labels matches, their names don't
    train = examples_of(data, rows, "train", tokenizer, model) if args.do_train else None
    dev = next((split for split in rows.splits if split.startswith("validation")), None)
    dev_examples = examples_of(data, rows, dev, tokenizer, model) if dev else None
    trainer = build_trainer(FineTuneTrainer, model, args, tokenizer, train, dev_examples, regression=rows.regression)
    tuning = GlueTuning(data, args, rows, origin, trainer, tokenizer, began)
    if dev is not None:
        trainer.score = lambda logits: tuning.score(dev, logits)
    return tuning


def report_rows(rows: TaskRows, say: Callable[[str], None]) -> None:
    """Prints what was derived from the data, and how many rows were skipped or characters replaced."""
    for note in rows.notes:
        say(note)
    for split in rows.splits.values():
        if split.skipped:
            say(f"warning: {split.source}: {split.skipped:,} broken rows of the official file are skipped")
        if split.replaced:
            say(f"warning: {split.source}: {split.replaced:,} lone surrogates were replaced by U+FFFD")


def rows_of(data: GlueArguments, args: FineTuneArguments, saved: SavedLabels | None = None) -> TaskRows:
    """Loads the splits that the run needs, limited to --max_..._samples. Without training, the labels of the user's own
    data are those of the checkpoint, `saved`.

    Raises UserError for a missing split, and for missing labels where they are needed.
    """
    task = data.task
    dev = task.dev_splits if task else ("validation",)
    test = task.test_splits if task else ("test",)
    wanted = (("train",) * args.do_train) + (dev * args.do_eval) + (test * args.do_predict)
    if task and task.name == "ax" and (args.do_train or args.do_eval):
        raise UserError("AX has only a test file: pass --do_predict, and an MNLI model as --model_name_or_path")
    options = tuple(data.hub_options().items())
    if task:
        rows = _glue(task.name, data.glue_data, wanted, options)
    else:
        requested = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
        if data.own_files:
            found = {split: name for split, name in data.own_files.items() if requested[split]}
            rows = read_files(found, data.own_options, saved) if found else TaskRows({}, ())
        else:
            assert data.hub_dataset, "data are a GLUE task's, files, or a hub dataset"
            tables = _hub(*data.hub_dataset, options)
            rows = from_tables({s: t for s, t in tables.items() if requested.get(s)}, data.own_options, saved)
    if data.own_task and data.own_task.metric == "f1" and len(rows.labels) != 2:
        raise UserError(
            f"{data.own_task.file}: found metric: f1, that of two classes, and the classes {shown(rows.labels)}: use "
            "accuracy or mcc"
        )
    # One of MNLI's two dev splits is enough; the score of the other is missing in the table.
    for needed, requested in ((("train",), args.do_train), (dev, args.do_eval), (test, args.do_predict)):
        if requested and not any(split in rows.splits for split in needed):
            where = data.glue_data if task else data.title
            add = f"pass --{needed[0]}_file" if data.own_files else "add its file, or leave the task out"
            raise UserError(f"{where} has no {needed[0]} split of {data.title}: {add}")
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    cut = {split: r.first(limits[split.split("_")[0]]) for split, r in rows.splits.items() if split in wanted}
    for split, part in cut.items():
        if part.labels is None and not split.startswith("test"):
            use = "train on" if split == "train" else "score by"
            raise UserError(f"{part.source} has no labels: expected some to {use}")
    return TaskRows(cut, rows.labels, rows.notes)


@lru_cache(maxsize=len(TASKS))  # a worker of a sweep comes by every task again at each checkpoint
def _glue(name: str, source: str, splits: tuple[str, ...], options: tuple) -> TaskRows:
    return read_glue(task_called(name), source, splits, **dict(options))


@lru_cache(maxsize=2)
def _hub(name: str, config: str | None, options: tuple) -> dict[str, Table]:
    require_hub(f"dataset {name}", "files of your own as --train_file and --validation_file")
    from datasets import load_dataset

    chosen = {key: value for key, value in options if key in ("cache_dir", "token")}
    try:
        data = load_dataset(name, config, **chosen)
    except Exception as error:  # datasets raises a dozen classes for "not found" and "no network"
        raise UserError(f"cannot load {name}: {str(error).splitlines()[0]}: pass --train_file instead") from error
    return {
        split: Table(f"{name} {split}", part.to_dict(), [f"row {number}" for number in range(len(part))])
        for split, part in data.items()
    }


def examples_of(data: GlueArguments, rows: TaskRows, split: str, tokenizer, model: nn.Module) -> Examples:
    """A split of `rows`, tokenised; cached under --prepared_dir."""
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


# The GLUE task whose metrics are those of a task file's metric: F1 beside accuracy, and Matthews correlation.
_METRICS_OF = {"f1": "mrpc", "mcc": "cola"}


@cache
def _metric(config: str):
    return evaluate.load(str(METRIC), config, keep_in_memory=True)


def score(data: GlueArguments, rows: TaskRows, predictions: np.ndarray, labels: list) -> dict[str, float]:
    """The task's metrics of predictions [rows] against labels [rows]."""
    if data.own_task and data.own_task.metric in _METRICS_OF:
        name = _METRICS_OF[data.own_task.metric]
    else:
        name = data.task.name if data.task else ("regression" if rows.regression else "accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the metrics define values for degenerate predictions
        return _metric(name).compute(predictions=predictions.tolist(), references=labels)
