"""What run_glue.py can be told."""

from dataclasses import dataclass

from recipe.arguments import option
from recipe.errors import UserError
from recipe.glue import TASKS, Recipe, Task, task_called
from recipe.glue_rows import GLUE_HUB_ID
from recipe.tuning_arguments import FineTuneArguments, StartArguments

__all__ = ["FineTuneArguments", "GlueArguments"]


@dataclass
class GlueArguments(StartArguments):
    """Which task, data and model."""

    task_name: str | None = option(None, f"One of {', '.join(TASKS)}; or pass --train_file or --dataset_name.")
    glue_data: str = option(GLUE_HUB_ID, "GLUE: a folder in the official layout, a copy of the hub's, or a hub id.")
    dataset_name: str | None = option(None, "Hub id of another classification set with train and validation splits.")
    dataset_config_name: str | None = option(None, "Config of that set.")
    train_file: str | None = option(None, "csv, tsv or json of one's own with a column `label`, one or two texts.")
    validation_file: str | None = option(None, "The same for evaluation.")
    test_file: str | None = option(None, "The same for prediction; the label column may be missing.")
    mnli_model: str | None = option(None, "Folder of the MNLI model of this checkpoint and seed to start from.")

    def __post_init__(self):
        super().__post_init__()
        if not (self.task_name or self.train_file or self.dataset_name):
            raise UserError(f"found no task: pass --task_name ({', '.join(TASKS)}), --train_file or --dataset_name")
        if self.task_name and (self.train_file or self.dataset_name):
            raise UserError("found --task_name beside --train_file or --dataset_name: pass one of them")

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
        return self.task.name if self.task else (self.dataset_name or self.train_file or "").rsplit("/", 1)[-1]

    @property
    def weights(self) -> str:
        return self.mnli_model or self.model_name_or_path
