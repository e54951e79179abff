"""Command-line arguments of run_qa.py."""

import os
from dataclasses import dataclass

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.finetune.arguments import FineTuneArguments, StartArguments
from recipe.finetune.qa.tasks import TASKS, Squad
from recipe.finetune.suite import TuningSettings
from recipe.system.errors import UserError


@dataclass
class QaArguments(StartArguments):
    """Which questions and checkpoint, how contexts are cut into windows, and how answers are chosen."""

    dataset_name: str | None = option(
        None, "A folder with SQuAD's files, or a hub id; by default rajpurkar/squad, or squad_v2 for SQuAD 2.0."
    )
    dataset_config_name: str | None = option(None, "Config of a dataset on the hub.")
    train_file: str | None = option(
        None, "Training data of your own in SQuAD's format, .json or .jsonl, instead of --dataset_name."
    )
    validation_file: str | None = option(None, "Evaluation data, in the same format.")
    test_file: str | None = option(None, "Test data, in the same format; answers may be missing.")
    task_name: str | None = option(
        None, "Name of the data in tables; by default squad, squad_v2 or the name of the training file."
    )
    max_seq_length: int = option(384, "Tokens per window, question and special tokens included.")
    doc_stride: int = option(128, "Tokens that consecutive windows of a long context share.")
    n_best_size: int = option(
        20, "Candidates: this many first and last tokens per window are combined, and this many answers are written."
    )
    max_answer_length: int = option(30, "Longest answer, in tokens.")
    version_2_with_negative: bool = option(False, "Allow questions without an answer (SQuAD 2.0).")
    null_score_diff_threshold: float = option(
        0.0, "Predict no answer where the null score exceeds the best answer's by more (SQuAD 2.0)."
    )
    preprocessing_num_workers: int | None = option(None, "Tokenisation threads; by default one per core.")

    def __post_init__(self):
        super().__post_init__()
        files = self.train_file or self.validation_file or self.test_file
        if files and self.dataset_name:
            raise UserError("found --dataset_name beside --train_file or another file: pass one of them")
        require_numbers(vars(self))
        if self.preprocessing_num_workers:
            os.environ["RAYON_NUM_THREADS"] = str(self.preprocessing_num_workers)
        if self.task_name in TASKS and self.task_name != self.version:
            raise UserError(f"found --task_name {self.task_name}: it goes with --version_2_with_negative for squad_v2")

    @property
    def version(self) -> str:
        """squad or squad_v2."""
        return "squad_v2" if self.version_2_with_negative else "squad"

    @property
    def squad(self) -> Squad:
        """Metadata of that version."""
        return TASKS[self.version]

    @property
    def dataset(self) -> str | None:
        """The folder or hub id to read; None where files are given."""
        files = self.train_file or self.validation_file or self.test_file
        return None if files else self.dataset_name or self.squad.hub_id

    @property
    def official(self) -> bool:
        """Whether the data is SQuAD itself, whose sizes are known and whose score has a column in tables."""
        return self.title == self.version

    @property
    def recipe(self) -> TuningSettings:
        """The default settings."""
        return self.squad.recipe

    @property
    def title(self) -> str:
        """Name of the data in tables."""
        if self.task_name:
            return self.task_name
        file = self.train_file or self.validation_file or self.test_file
        return file.rsplit("/", 1)[-1] if file else self.version


@dataclass
class QaTrainingArguments(FineTuneArguments):
    """Transformers' TrainingArguments. Batch size, learning rate and epochs default to those of SQuAD."""

    per_device_eval_batch_size: int = option(64, "Evaluation batch size per device, in windows.")
    save_strategy: str = option("steps", "When to save a checkpoint: steps, epoch or no.")
    save_steps: float = option(500, "Steps between checkpoints; below 1, a share of all steps.")
    save_total_limit: int | None = option(1, "Keep this many of the newest checkpoints and delete older ones.")

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:
            raise UserError(
                f"found --label_smoothing_factor {self.label_smoothing_factor}: it would reward padding positions; "
                "leave it out"
            )
        if self.save_only_model:
            raise UserError("found --save_only_model: a checkpoint without optimizer state cannot be resumed from")
