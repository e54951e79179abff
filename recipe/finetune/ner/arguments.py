"""Command-line arguments of run_ner.py."""

from dataclasses import dataclass

from recipe.cli.parser import option
from recipe.finetune.arguments import FineTuneArguments, StartArguments
from recipe.finetune.ner.suite import SETTINGS, SUITE
from recipe.finetune.suite import TuningSettings
from recipe.system.errors import UserError


@dataclass
class NerArguments(StartArguments):
    """Which labelled sentences and checkpoint, and how long sentences are cut."""

    task_name: str | None = option(None, "Name of the data in tables: wnut17, or a name of your own.")
    dataset_name: str | None = option(
        None, "A folder with files for training, dev and test, or a hub id; by default leondz/wnut_17."
    )
    dataset_config_name: str | None = option(None, "Config of a dataset on the hub.")
    train_file: str | None = option(
        None, "Training data of your own: CoNLL layout (a word and its label per line), or JSON lines."
    )
    validation_file: str | None = option(None, "Evaluation data, in the same format.")
    test_file: str | None = option(None, "Test data, in the same format; labels may be missing in JSON lines.")
    text_column_name: str | None = option(None, "Column of the words in JSON lines or on the hub; by default tokens.")
    label_column_name: str | None = option(None, "Column of the labels; by default ner_tags.")
    label_all_tokens: bool = option(
        False, "Train on every token of a word, as I- after its first; off, on the first token of each word."
    )
    doc_stride: int = option(32, "Tokens that consecutive windows of a long sentence share.")
    return_entity_level_metrics: bool = option(False, "Report precision, recall and F1 of each kind of entity, too.")

    def __post_init__(self):
        super().__post_init__()
        if self.dataset_name and self.own_files:
            raise UserError("found --dataset_name beside --train_file or another file: pass one of them")
        if not 0 <= self.doc_stride <= self.max_seq_length // 2:
            raise UserError(
                f"found --doc_stride {self.doc_stride} with --max_seq_length {self.max_seq_length}, expected 0 to "
                f"{self.max_seq_length // 2}: windows overlap by at most half"
            )

    @property
    def own_files(self) -> dict[str, str]:
        """{split: local file} of the files that were given."""
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: name for split, name in named.items() if name}

    @property
    def dataset(self) -> str | None:
        """The folder or hub id to read; None where files are given."""
        return None if self.own_files else self.dataset_name or SUITE.tasks["wnut17"].hub_id

    @property
    def recipe(self) -> TuningSettings:
        """The default settings."""
        return SETTINGS

    @property
    def title(self) -> str:
        """Name of the data in tables."""
        if self.task_name:
            return self.task_name
        return next(iter(self.own_files.values())).rsplit("/", 1)[-1] if self.own_files else "wnut17"


@dataclass
class NerTrainingArguments(FineTuneArguments):
    """Transformers' TrainingArguments. Batch size, learning rate and epochs default to those of the suite."""

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:
            raise UserError(f"found --label_smoothing_factor {self.label_smoothing_factor}: it has no effect here")
