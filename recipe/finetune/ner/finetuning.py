"""Fine-tuning of a checkpoint on named entities: model, windows, and scores over entities."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, set_seed

from recipe.finetune.examples import Examples
from recipe.finetune.finetuning import FineTuneTrainer, FineTuning, build_trainer, size_of
from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments
from recipe.finetune.ner.entities import entities_of, scores_of
from recipe.finetune.ner.sentences import Sentences, read_sentences
from recipe.finetune.ner.suite import SUITE
from recipe.finetune.ner.word_windows import TaggedExamples, WordWindows, cut_windows
from recipe.finetune.outcomes import ACTUAL, MATCHED, PREDICTED, write_outcomes
from recipe.finetune.starting_point import build_model, config_of, origin_of, tokenizer_of, with_labels
from recipe.finetune.suite import Suite
from recipe.system.errors import UserError

SPLITS = ("train", "validation", "test")
COLUMNS = ("tokens", "ner_tags")


class TagTrainer(FineTuneTrainer):
    """Trains a model to predict a label for each token; a step's loss is the mean over the words of its batch."""

    def logits_of(self, model, inputs: dict) -> torch.Tensor:
        """[batch, labels, length]."""
        return model(**inputs)["logits"].float().transpose(1, 2)

    def allocate_logits(self, dataset: Examples) -> np.ndarray:
        """[tokens, labels], for the tokens of all windows, concatenated."""
        labels = self.model.config.num_labels
        assert labels is not None, "the model has a head"
        return np.zeros((len(dataset.ids), labels), dtype=np.float32)

    def store_logits(self, stored: np.ndarray, dataset: Examples, rows: list[int], logits: np.ndarray) -> None:
        for place, row in enumerate(rows):
            end, length = dataset.ends[row], dataset.lengths[row]
            stored[end - length : end] = logits[place, :, :length].T


@dataclass
class NerTuning(FineTuning):
    """A fine-tuning on labelled sentences. `predictions` is filled as splits are predicted."""

    suite: ClassVar[Suite] = SUITE
    data: NerArguments
    rows: dict[str, Sentences]
    names: tuple[str, ...] = ()
    windows: dict[str, WordWindows] = field(default_factory=dict)
    predictions: dict[str, list[list[str]]] = field(default_factory=dict)

    def label(self, split: str) -> dict[str, float]:
        """Predicts the labels of `split` and keeps them. Returns the metrics of the loop, {"eval_loss": loss}."""
        if split not in self.windows:
            self.windows[split] = windows_of(self.data, self.rows[split], self.tokenizer)
        windows, rows = self.windows[split], self.rows[split]
        labels = None if rows.labels is None else windows.labels(rows, self.names, all_tokens=False)
        examples = TaggedExamples(windows, labels, **_padding(self.data, self.tokenizer, self.trainer.model))
        logits, metrics = self.predict(examples)
        self.predictions[split] = windows.predicted(logits, rows, self.names)
        return metrics

    def evaluate(self) -> dict[str, dict[str, float]]:
        loss = self.label("validation")["eval_loss"]
        return {"validation": self.score("validation") | {"loss": loss}}

    def score(self, split: str) -> dict[str, float]:
        """Precision, recall and F1 over entities and the share of words with the right label of a predicted split."""
        actual = self.rows[split].labels
        assert actual is not None, "the labels are known"
        return score(actual, self.predictions[split], self.data.return_entity_level_metrics)

    def write_predictions(self, folder: Path) -> list[Path]:
        """Writes eval_predictions.txt and predictions.txt, a sentence's labels per line, and the dev outcomes."""
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for split, name in (("validation", "eval_predictions.txt"), ("test", "predictions.txt")):
            if split in self.predictions:
                text = "".join(" ".join(labels) + "\n" for labels in self.predictions[split])
                (folder / name).write_text(text, encoding="utf-8")
                files.append(folder / name)
        actual = self.rows["validation"].labels if "validation" in self.predictions else None
        if actual is not None:
            files.append(write_outcomes(folder, {"validation": outcomes_of(actual, self.predictions["validation"])}))
        return files

    def headline(self) -> str:
        return "f1"

    def sizes(self) -> dict[str, dict]:
        official = SUITE.tasks[self.data.title].sizes if self.data.title in SUITE.tasks else {}
        return {split: size_of(rows, official.get(split)) for split, rows in self.rows.items() if split != "test"}

    def source(self) -> str:
        return self.data.dataset or self.data.title

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        record = super().record(scores)
        record["settings"] |= {name: getattr(self.data, name) for name in ("doc_stride", "label_all_tokens")}
        return record


def score(actual, predicted, each_kind: bool = False) -> dict[str, float]:
    """Precision, recall and F1 over all entities and the share of words with the right label; with `each_kind`, the
    three also of each kind of entity."""
    found = scores_of(actual, predicted)
    right = sum(a == b for pair in zip(actual, predicted, strict=True) for a, b in zip(*pair, strict=True))
    metrics = found[""] | {"accuracy": right / max(1, sum(map(len, actual)))}
    for kind, values in found.items() if each_kind else ():
        metrics |= {f"{kind}_{name}": value for name, value in values.items() if kind}
    return metrics


def outcomes_of(actual, predicted) -> dict[str, np.ndarray]:
    """[sentences] of the entities of each: found with the right borders and kind, predicted, and actual."""
    pairs = [(entities_of(a), entities_of(b)) for a, b in zip(actual, predicted, strict=True)]
    return {
        MATCHED: np.array([len(a & b) for a, b in pairs]),
        PREDICTED: np.array([len(b) for _, b in pairs]),
        ACTUAL: np.array([len(a) for a, _ in pairs]),
    }


def prepare(data: NerArguments, args: NerTrainingArguments, say: Callable[[str], None] = print) -> NerTuning:
    """Loads and checks data, checkpoint and tokenizer, cuts the windows, builds model and trainer. Raises UserError for
    invalid data, checkpoint, tokenizer or settings."""
    began = time.monotonic()
    args.fill_defaults(data.recipe)
    origin = origin_of(data)
    tokenizer = tokenizer_of(data)
    rows = rows_of(data, args)
    names = names_of(data, rows)
    config = with_labels(config_of(data, tokenizer), names)
    set_seed(args.seed)
    model = build_model(AutoModelForTokenClassification, data, config, args.seed)
    windows = {split: windows_of(data, part, tokenizer) for split, part in rows.items() if split != "test"}
    trainer = build_trainer(TagTrainer, model, args, tokenizer, None, None) if "train" not in rows else None
    parts = {
        split: TaggedExamples(
            windows[split], windows[split].labels(rows[split], names, data.label_all_tokens and split == "train"),
            **_padding(data, tokenizer, model),
        )
        for split in windows
    }  # fmt: skip
    trainer = trainer or build_trainer(TagTrainer, model, args, tokenizer, parts["train"], parts.get("validation"))
    tuning = NerTuning(data, args, rows, origin, trainer, tokenizer, began, names, windows)
    if "validation" in rows:
        actual = rows["validation"].labels or ()
        trainer.score = lambda logits: score(actual, windows["validation"].predicted(logits, rows["validation"], names))
    return tuning


def names_of(data: NerArguments, rows: dict[str, Sentences]) -> tuple[str, ...]:
    """The labels: those of the training sentences, or without training those of the checkpoint. Raises UserError where
    the dev sentences have others."""
    if "train" in rows:
        names = rows["train"].names
    else:
        config = AutoConfig.from_pretrained(data.model_name_or_path, **data.hub_options())
        if not any("ForTokenClassification" in name for name in config.architectures or ()):
            raise UserError(f"{data.model_name_or_path} has no head for labels: pass --do_train")
        names = tuple(str(name) for _, name in sorted((config.id2label or {}).items()))
    for split, part in rows.items():
        if strange := sorted(set(part.names) - set(names)):
            raise UserError(f"{part.source} has the labels {', '.join(strange)}, which the {split} model doesn't know: "
                            "expected those of the training sentences")  # fmt: skip
    return names


def rows_of(data: NerArguments, args: NerTrainingArguments) -> dict[str, Sentences]:
    """Loads the splits that the run needs, limited to --max_..._samples. Raises UserError for a missing split, and for
    missing labels where they are needed."""
    requested = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    columns = (data.text_column_name or COLUMNS[0], data.label_column_name or COLUMNS[1])
    options = tuple(data.hub_options().items())
    found = _rows(data.dataset, tuple(data.own_files.items()), data.dataset_config_name, columns, options)
    limits = {"train": data.max_train_samples, "validation": data.max_eval_samples, "test": data.max_predict_samples}
    rows = {}
    for split in (split for split in SPLITS if requested[split]):
        if split not in found:
            raise UserError(
                f"{data.dataset or 'the command'} has no {split} split: add its file, or pass --{split}_file"
            )
        rows[split] = found[split].first(limits[split])
        if rows[split].labels is None and split != "test":
            raise UserError(f"{rows[split].source} has no labels: pass --label_column_name NAME")
    return rows


@lru_cache(maxsize=2)
def _rows(source: str | None, files: tuple, config: str | None, columns: tuple[str, str], options: tuple):
    return read_sentences(source, dict(files), config, columns, **dict(options))


def windows_of(data: NerArguments, sentences: Sentences, tokenizer) -> WordWindows:
    """The windows of a split."""
    return cut_windows(sentences, tokenizer, data.max_seq_length, data.doc_stride)


def _padding(data: NerArguments, tokenizer, model) -> dict:
    return {
        "pad_id": tokenizer.pad_token_id,
        "token_types": getattr(model.config, "type_vocab_size", 1) > 1,
        "pad_to": data.max_seq_length if data.pad_to_max_length else None,
    }
