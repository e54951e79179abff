"""What run_qa.py can be told."""

import os
from dataclasses import dataclass

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.finetune.arguments import FineTuneArguments, StartArguments
from recipe.finetune.qa.squad import TASKS, Squad
from recipe.finetune.tasks import Recipe
from recipe.system.errors import UserError


@dataclass
class QaArguments(StartArguments):
    """Which questions and model, how contexts are cut and answers chosen."""

    dataset_name: str | None = option(
        None, "A folder with SQuAD's files, or a hub id; by default rajpurkar/squad, or squad_v2 with negatives."
    )
    dataset_config_name: str | None = option(None, "Config of a hub dataset.")
    train_file: str | None = option(None, "A file in SQuAD's layout, .json or .jsonl, instead of --dataset_name.")
    validation_file: str | None = option(None, "The same for evaluation.")
    test_file: str | None = option(None, "The same for prediction; answers may be missing.")
    task_name: str | None = option(
        None, "What tables call the data: squad or squad_v2 for SQuAD itself; a training file's name by default."
    )
    max_seq_length: int = option(384, "Tokens a window, question and special tokens included.")
    doc_stride: int = option(128, "Tokens that two windows of a long context share.")
    n_best_size: int = option(20, "Best first and last tokens of a window that are combined, and answers written down.")
    max_answer_length: int = option(30, "Tokens an answer.")
    version_2_with_negative: bool = option(False, "Some questions have no answer (SQuAD 2.0).")
    null_score_diff_threshold: float = option(0.0, "Null odds above which no answer is given (SQuAD 2.0).")
    preprocessing_num_workers: int | None = option(None, "Threads of the tokenizer; by default every core.")

    def __post_init__(self):
        super().__post_init__()
        files = self.train_file or self.validation_file or self.test_file
        if files and self.dataset_name:
            raise UserError("found --dataset_name beside --train_file or its like: pass one of them")
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
        """What is known of that version."""
        return TASKS[self.version]

    @property
    def dataset(self) -> str | None:
        """The folder or hub id that is read, None where files are."""
        files = self.train_file or self.validation_file or self.test_file
        return None if files else self.dataset_name or self.squad.hub_id

    @property
    def official(self) -> bool:
        """Whether the data is SQuAD itself, so that its sizes are known and its score has a column."""
        return self.title == self.version

    @property
    def recipe(self) -> Recipe:
        """The settings that hold where none are passed."""
        return self.squad.recipe

    @property
    def title(self) -> str:
        """What tables call the data."""
        if self.task_name:
            return self.task_name
        file = self.train_file or self.validation_file or self.test_file
        return file.rsplit("/", 1)[-1] if file else self.version


@dataclass
class QaTrainingArguments(FineTuneArguments):
    """All of transformers' TrainingArguments. Batch, learning rate and epochs default to SQuAD's own settings."""

    per_device_eval_batch_size: int = option(64, "Windows an evaluation batch.")
    save_strategy: str = option("steps", "steps: a killed run continues from its newest checkpoint.")
    save_steps: float = option(500, "Steps between two checkpoints.")
    save_total_limit: int | None = option(1, "Checkpoints that are kept.")

    def __post_init__(self):
        super().__post_init__()
        if self.label_smoothing_factor:
            raise UserError(
                f"found --label_smoothing_factor {self.label_smoothing_factor}: it would reward positions of padding; "
                "leave it out"
            )
        if self.save_only_model:
            raise UserError("found --save_only_model: a checkpoint without its optimizer cannot be continued")
