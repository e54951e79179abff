"""Fine-tuning of a checkpoint on SQuAD: trainer, windows of the splits, answers and their official scores."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering, PreTrainedConfig, set_seed

from recipe.finetune.examples import Examples
from recipe.finetune.finetuning import FineTuneTrainer, FineTuning, build_trainer, size_of
from recipe.finetune.outcomes import write_outcomes
from recipe.finetune.qa.answer_spans import Predictions, decode
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.finetune.qa.scoring import golds_by_id, golds_of, question_scores, score, score_with_negative
from recipe.finetune.qa.squad import SHOWN, Questions, for_training, read_files, read_squad, require_answers
from recipe.finetune.qa.suite import SUITE
from recipe.finetune.qa.tasks import TASKS
from recipe.finetune.qa.windows import Windows, cut_windows
from recipe.finetune.starting_point import build_model, config_of, origin_of, tokenizer_of
from recipe.finetune.suite import Suite
from recipe.system.errors import UserError

SPLITS = ("train", "validation", "test")


class AnswerTrainer(FineTuneTrainer):
    """Trains a model to predict the first and the last token of an answer.

    The model's own loss is not used: it averages over a micro-batch and gives padding a share of the probability, so
    that it would depend on how a batch is split.
    """

    def logits_of(self, model, inputs: dict) -> torch.Tensor:
        """[batch, length, 2]: start and end logits of each token; those of padding are the lowest fp32 number."""
        outputs = model(**inputs)
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1).float()
        mask = inputs.get("attention_mask")
        return logits if mask is None else logits.masked_fill(mask[..., None] == 0, torch.finfo(logits.dtype).min)

    def allocate_logits(self, dataset: Examples) -> np.ndarray:
        """[tokens, 2], for the tokens of all windows, concatenated."""
        return np.zeros((len(dataset.ids), 2), dtype=np.float32)

    def store_logits(self, stored: np.ndarray, dataset: Examples, rows: list[int], logits: np.ndarray) -> None:
        for place, row in enumerate(rows):
            end, length = dataset.ends[row], dataset.lengths[row]
            stored[end - length : end] = logits[place, :length]


@dataclass
class QaTuning(FineTuning):
    """A fine-tuning on questions. `windows` and `predictions` are filled as splits are used."""

    suite: ClassVar[Suite] = SUITE
    data: QaArguments
    rows: dict[str, Questions]
    trainer: AnswerTrainer
    windows: dict[str, Windows] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)

    def answer(self, split: str) -> dict[str, float]:
        """Answers the questions of `split` and stores the answers in `predictions`. Returns {"eval_loss": loss}, empty
        without labels."""
        logits, metrics = self.predict(self.examples(split))
        self.predictions[split] = self.decode(split, logits)
        return metrics

    def decode(self, split: str, logits: np.ndarray) -> Predictions:
        """The answers to the questions of `split` from logits [tokens, 2]."""
        data = self.data
        return decode(
            logits,
            self.windows[split],
            self.rows[split],
            n_best=data.n_best_size,
            max_length=data.max_answer_length,
            with_negative=data.version_2_with_negative,
            threshold=data.null_score_diff_threshold,
        )

    def examples(self, split: str) -> Examples:
        """The windows of a split as examples, cut on first use."""
        if split not in self.windows:
            self.windows[split] = windows_of(self.data, self.rows[split], self.tokenizer)
        return examples_of(self.data, self.windows[split], self.rows[split], self.tokenizer, self.trainer.model)

    def evaluate(self) -> dict[str, dict[str, float]]:
        loss = self.answer("validation")["eval_loss"]
        metrics = score_of(self.data, self.predictions["validation"], self.rows["validation"])
        return {"validation": metrics | {"loss": loss}}

    def write_predictions(self, folder: Path) -> list[Path]:
        """Writes the answers to the dev (eval_*) and test (predict_*) questions: predictions, n-best and null odds."""
        prefixes = {"validation": "eval", "test": "predict"}
        files = [file for split, made in self.predictions.items() for file in made.write(folder, prefixes[split])]
        if "validation" in self.predictions:
            files.append(write_outcomes(folder, {"validation": self._outcomes()}))
        return files

    def _outcomes(self) -> dict[str, np.ndarray]:
        """The part of each dev question in the official metrics, in percent: 0 to 100."""
        made, data = self.predictions["validation"], self.data
        golds = golds_by_id(self.rows["validation"])
        if not data.version_2_with_negative:
            parts = question_scores(made.answers, golds, both_empty=0.0)
            return {"exact_match": parts[0], "f1": parts[1]}
        given = {
            name: "" if (made.null_odds or {}).get(name, 0.0) > data.null_score_diff_threshold else text
            for name, text in made.texts.items()
        }
        parts = question_scores(given, {name: golds_of(texts) for name, texts in golds.items()}, both_empty=1.0)
        return {"exact": parts[0], "f1": parts[1]}

    def headline(self) -> str:
        return "f1"

    def sizes(self) -> dict[str, dict]:
        official = TASKS[self.data.version].sizes if self.data.official else {}
        parts = {split: rows for split, rows in self.rows.items() if split != "test"}
        return {
            split: size_of(rows, official.get(split)) | {"misplaced_answers": len(rows.misplaced)}
            for split, rows in parts.items()
        }

    def source(self) -> str:
        return self.data.dataset or self.data.title

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        record = super().record(scores)
        names = ("doc_stride", "n_best_size", "max_answer_length", "null_score_diff_threshold")
        record["settings"] |= {name: getattr(self.data, name) for name in names}
        windows = {split: len(windows) for split, windows in self.windows.items()}
        return record | {"windows": windows}


def prepare(data: QaArguments, args: QaTrainingArguments, say: Callable[[str], None] = print) -> QaTuning:
    """Loads and checks data, checkpoint and tokenizer, cuts the windows, builds model and trainer. `say` prints what
    was skipped or replaced. Raises UserError for invalid data, checkpoint, tokenizer or settings."""
    began = time.monotonic()
    args.fill_defaults(data.recipe)
    origin = origin_of(data)
    tokenizer = tokenizer_of(data)
    rows = rows_of(data, args)
    for split, questions in rows.items():
        report_misplaced(split, questions, say)
    config = config_with_span_head(config_of(data, tokenizer))
    set_seed(args.seed)
    model = build_model(AutoModelForQuestionAnswering, data, config, args.seed)
    windows = {split: windows_of(data, questions, tokenizer) for split, questions in rows.items() if split != "test"}
    parts = {split: examples_of(data, windows[split], rows[split], tokenizer, model) for split in windows}
    trainer = build_trainer(AnswerTrainer, model, args, tokenizer, parts.get("train"), parts.get("validation"))
    tuning = QaTuning(data, args, rows, origin, trainer, tokenizer, began, windows)
    trainer.score = lambda logits: score_of(data, tuning.decode("validation", logits), rows["validation"])
    return tuning


def config_with_span_head(config: PreTrainedConfig) -> PreTrainedConfig:
    """`config` for a head with two outputs, start and end, whatever head the checkpoint has."""
    config.num_labels = 2
    return config


def rows_of(data: QaArguments, args: QaTrainingArguments) -> dict[str, Questions]:
    """Loads the splits that the run needs, limited to --max_..._samples. Raises UserError for a missing split, and for
    questions without answers where they are needed."""
    requested = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    wanted = tuple(split for split in SPLITS if requested[split])
    options = tuple(data.hub_options().items())
    rows = _rows(data.dataset, _files(data), data.dataset_config_name, data.version, options)
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    found = {}
    for split in wanted:
        if split not in rows:
            where = data.dataset or "the command"
            raise UserError(f"{where} has no {split} split: add its file, or pass --{split}_file")
        found[split] = rows[split].first(limits[split])
        if split != "test":
            require_answers(found[split], data.version_2_with_negative)
    if "train" in found:
        found["train"] = for_training(found["train"])
    return found


def _files(data: QaArguments) -> tuple[tuple[str, str], ...]:
    named = ((split, getattr(data, f"{split}_file")) for split in SPLITS)
    return tuple((split, name) for split, name in named if name)


@lru_cache(maxsize=2)
def _rows(name: str | None, files: tuple, config: str | None, version: str, options: tuple) -> dict[str, Questions]:
    if files:
        return read_files(dict(files))
    assert name is not None, "the arguments require a data set or files"
    return read_squad(name, config, TASKS[version], SPLITS, **dict(options))


def report_misplaced(split: str, questions: Questions, say: Callable[[str], None]) -> None:
    """Prints the number of replaced lone surrogates, the number of answers that aren't in their context with some
    examples, and how these are handled."""
    if questions.replaced:
        say(f"warning: {questions.source}: {questions.replaced:,} lone surrogates were replaced by U+FFFD")
    if not questions.misplaced:
        return
    effect = (
        f"{questions.skipped:,} questions are skipped" if split == "train" else "their questions are scored by the text"
    )
    say(f"warning: {questions.source}: {len(questions.misplaced):,} answers aren't in their context; {effect}")
    for place in questions.misplaced[:SHOWN]:
        say(f"    {place}")


def windows_of(data: QaArguments, questions: Questions, tokenizer) -> Windows:
    """The windows of a split, cached under --prepared_dir."""
    folder = Path(data.prepared_dir).expanduser() / "qa"
    return cut_windows(questions, tokenizer, data.max_seq_length, data.doc_stride, folder, data.overwrite_cache)


def examples_of(data: QaArguments, windows: Windows, questions: Questions, tokenizer, model: nn.Module) -> Examples:
    """The windows as examples, with labels if the answers are known."""
    return windows.examples(
        None if questions.hidden else windows.labels(questions),
        pad_id=tokenizer.pad_token_id,
        token_types=getattr(model.config, "type_vocab_size", 1) > 1,
        pad_to=data.max_seq_length if data.pad_to_max_length else None,
    )


def score_of(data: QaArguments, predictions: Predictions, questions: Questions) -> dict[str, float]:
    """The official SQuAD metrics of a split, in percent."""
    golds = golds_by_id(questions)
    if not data.version_2_with_negative:
        return score(predictions.answers, golds)
    return score_with_negative(predictions.texts, golds, predictions.null_odds, data.null_score_diff_threshold)
