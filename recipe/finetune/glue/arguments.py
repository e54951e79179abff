"""What run_glue.py can be told."""

from dataclasses import dataclass, field

from recipe.cli.parser import option
from recipe.data.encodings import check_encoding
from recipe.data.tables import QUOTING, check_delimiter
from recipe.finetune.arguments import FineTuneArguments, StartArguments
from recipe.finetune.glue.own_rows import OwnOptions
from recipe.finetune.glue.rows import GLUE_HUB_ID
from recipe.finetune.glue.tasks import TASKS, Task, task_called
from recipe.finetune.tasks import Recipe
from recipe.system.errors import UserError

__all__ = ["FineTuneArguments", "GlueArguments"]


@dataclass
class GlueArguments(StartArguments):
    """Which task, data and model."""

    task_name: str | None = option(None, f"One of {', '.join(TASKS)}; or pass --train_file or --dataset_name.")
    glue_data: str = option(GLUE_HUB_ID, "GLUE: a folder in the official layout, a copy of the hub's, or a hub id.")
    dataset_name: str | None = option(None, "Hub id of another classification set with train and validation splits.")
    dataset_config_name: str | None = option(None, "Config of that set.")
    train_file: str | None = option(None, "csv, tsv or json of one's own: one or two texts and a label per row.")
    validation_file: str | None = option(None, "The same for evaluation.")
    test_file: str | None = option(None, "The same for prediction; the label column may be missing.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "One or two columns that hold the text: --text_columns a b, or a,b. By default sentence1 and "
        "sentence2 or their like, or the only column beside the label."},
    )  # fmt: skip
    label_column: str | None = option(None, "Column of one's own files that holds the label; by default `label`.")
    regression: bool | None = option(
        None, "Whether the labels of one's own files are scores. By default numbers with a fraction are, others aren't."
    )
    csv_delimiter: str | None = option(None, "Separates the fields of one's own files: a comma in .csv, a tab in .tsv.")
    csv_quoting: str = option(
        "auto", f"{', '.join(QUOTING)}. none: quotes are text; auto: that in .tsv, quoted fields in .csv, checked."
    )
    text_encoding: str | None = option(None, "Encoding of one's own files, if they aren't UTF-8.")
    mnli_model: str | None = option(None, "Folder of the MNLI model of this checkpoint and seed to start from.")

    def __post_init__(self):
        super().__post_init__()
        if not (self.task_name or self.own_files or self.dataset_name):
            raise UserError(f"found no task: pass --task_name ({', '.join(TASKS)}), --train_file or --dataset_name")
        if sum(map(bool, (self.task_name, self.own_files, self.dataset_name))) > 1:
            given = ("--task_name" if self.task_name else "--dataset_name", "--train_file or its like")
            given = given if self.own_files else ("--task_name", "--dataset_name")
            raise UserError(f"found {given[0]} beside {given[1]}: pass one of them")
        if self.task_name and (self.text_columns or self.label_column or self.regression is not None):
            raise UserError("found --text_columns, --label_column or --regression beside --task_name: leave them out")
        if self.csv_quoting not in QUOTING:
            raise UserError(f"found --csv_quoting {self.csv_quoting}, expected one of {', '.join(QUOTING)}")
        if self.csv_delimiter is not None:
            self.csv_delimiter = check_delimiter(self.csv_delimiter)
        if self.text_encoding is not None:
            check_encoding(self.text_encoding)
        if len(self.texts) > 2:
            raise UserError(f"found {len(self.texts)} --text_columns, expected one or two")

    @property
    def own_files(self) -> dict[str, str]:
        """The files of one's own by split."""
        named = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: name for split, name in named.items() if name}

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that --text_columns names."""
        return tuple(name for given in self.text_columns for name in given.split(",") if name)

    @property
    def own_options(self) -> OwnOptions:
        """How files of one's own are read."""
        chosen = (self.texts, self.label_column, self.regression)
        return OwnOptions(*chosen, self.csv_delimiter, self.csv_quoting, self.text_encoding)

    @property
    def task(self) -> Task | None:
        """The GLUE task, None for data of one's own."""
        return task_called(self.task_name) if self.task_name else None

    @property
    def recipe(self) -> Recipe:
        """The settings that hold where none are passed: the task's; MRPC's, of a small set, for data of one's own."""
        return (self.task or TASKS["mrpc"]).recipe

    @property
    def title(self) -> str:
        """What tables call the data."""
        if self.task:
            return self.task.name
        return (self.dataset_name or next(iter(self.own_files.values()))).rsplit("/", 1)[-1]

    @property
    def weights(self) -> str:
        return self.mnli_model or self.model_name_or_path
