"""Command-line arguments of run_glue.py: the task, or data of your own."""

from dataclasses import dataclass, field
from functools import cached_property

from recipe.cli.parser import option
from recipe.data.encodings import check_encoding
from recipe.data.tables import QUOTING, check_delimiter
from recipe.finetune.arguments import FineTuneArguments, StartArguments
from recipe.finetune.glue.own_rows import OwnOptions
from recipe.finetune.glue.own_tasks import OwnTask, is_task_file, read_own_task
from recipe.finetune.glue.tasks import GLUE_HUB_ID, TASKS, Task, task_called
from recipe.finetune.suite import TuningSettings
from recipe.system.errors import UserError

__all__ = ["FineTuneArguments", "GlueArguments"]


@dataclass
class GlueArguments(StartArguments):
    """Which task, data and checkpoint."""

    task_name: str | None = option(
        None,
        f"One of {', '.join(TASKS)}, or a .yaml file with a task of your own (see docs/finetuning.md); for other data "
        "pass --train_file or --dataset_name.",
    )
    glue_data: str = option(
        GLUE_HUB_ID, "GLUE: a folder with the official files, a copy of the hub dataset, or a hub id."
    )
    dataset_name: str | None = option(
        None, "Hub id of another classification dataset with train and validation splits."
    )
    dataset_config_name: str | None = option(None, "Config of that dataset.")
    train_file: str | None = option(
        None, "Training data of your own, csv, tsv or json: one or two texts and a label per row."
    )
    validation_file: str | None = option(None, "Evaluation data, in the same format.")
    test_file: str | None = option(None, "Test data, in the same format; the label column may be missing.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "One or two columns that hold the text: a b, or a,b. By default sentence1 and sentence2 or "
        "similar names, or the only column beside the label."},
    )  # fmt: skip
    label_column: str | None = option(None, "Column that holds the label; by default label.")
    regression: bool | None = option(
        None, "Treat labels as scores. By default numbers with a fraction are scores, all others are classes."
    )
    csv_delimiter: str | None = option(None, "Field delimiter; by default a comma in .csv and a tab in .tsv.")
    csv_quoting: str = option(
        "auto",
        f"One of {', '.join(QUOTING)}. none: quotes are plain text; auto: none for .tsv, minimal for .csv, checked.",
    )
    text_encoding: str | None = option(None, "Encoding of local files; by default UTF-8.")
    mnli_model: str | None = option(
        None, "Start from this model, fine-tuned on MNLI from the same checkpoint with the same seed."
    )

    def __post_init__(self):
        super().__post_init__()
        files = any((self.train_file, self.validation_file, self.test_file))
        if not (self.task_name or files or self.dataset_name):
            raise UserError(f"found no task: pass --task_name ({', '.join(TASKS)}), --train_file or --dataset_name")
        if sum(map(bool, (self.task_name, files, self.dataset_name))) > 1:
            given = ("--task_name" if self.task_name else "--dataset_name", "--train_file or another file")
            given = given if files else ("--task_name", "--dataset_name")
            raise UserError(f"found {given[0]} beside {given[1]}: pass one of them")
        if self.task_name and (self.text_columns or self.label_column or self.regression is not None):
            raise UserError("found --text_columns, --label_column or --regression beside --task_name: leave them out")
        _ = self.own_task  # refuses a wrong file now
        if self.csv_quoting not in QUOTING:
            raise UserError(f"found --csv_quoting {self.csv_quoting}, expected one of {', '.join(QUOTING)}")
        if self.csv_delimiter is not None:
            self.csv_delimiter = check_delimiter(self.csv_delimiter)
        if self.text_encoding is not None:
            check_encoding(self.text_encoding)
        if len(self.texts) > 2:
            raise UserError(f"found {len(self.texts)} --text_columns, expected one or two")

    @cached_property
    def own_task(self) -> OwnTask | None:
        """The task in a file of the user's own; None for others. Raises UserError for a wrong file."""
        return read_own_task(self.task_name) if self.task_name and is_task_file(self.task_name) else None

    @property
    def own_files(self) -> dict[str, str]:
        """{split: local file} of the files that were given."""
        if self.own_task:
            return {split: str(file) for split, file in self.own_task.files.items()}
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: name for split, name in named.items() if name}

    @property
    def texts(self) -> tuple[str, ...]:
        """The names given in --text_columns."""
        return tuple(name for given in self.text_columns for name in given.split(",") if name)

    @property
    def own_options(self) -> OwnOptions:
        """How local files are read."""
        if own := self.own_task:
            quoting = self.csv_quoting if own.quoting == "auto" else own.quoting
            layout = (own.delimiter or self.csv_delimiter, quoting, own.encoding or self.text_encoding)
            return OwnOptions(own.texts, own.label, own.labels, own.regression, *layout, task_file=own.file)
        chosen = (self.texts, self.label_column, (), self.regression)
        return OwnOptions(*chosen, self.csv_delimiter, self.csv_quoting, self.text_encoding)

    @property
    def hub_dataset(self) -> tuple[str, str | None] | None:
        """The hub id and config of another dataset than GLUE; None for other data."""
        own = self.own_task
        name, config = (own.dataset, own.config) if own else (self.dataset_name, self.dataset_config_name)
        return (name, config) if name else None

    @property
    def task(self) -> Task | None:
        """The GLUE task; None for other data."""
        return task_called(self.task_name) if self.task_name and not self.own_task else None

    @property
    def recipe(self) -> TuningSettings:
        """The default settings: the task's, or those of MRPC, a small dataset, for other data."""
        return self.own_task.settings if self.own_task else (self.task or TASKS["mrpc"]).recipe

    @property
    def title(self) -> str:
        """Name of the data in tables."""
        if named := self.task or self.own_task:
            return named.name
        return (self.dataset_name or next(iter(self.own_files.values()))).rsplit("/", 1)[-1]

    @property
    def weights(self) -> str:
        return self.mnli_model or self.model_name_or_path
