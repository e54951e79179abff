"""The record of a suite: tasks that are evaluated and reported together, and what sweeps and reports know about them.

A new suite is a package under recipe/finetune/ whose module `suite` holds its record as SUITE, and the package's name
in recipe/finetune/suites.py. A record's functions import the suite's code when they are called, so that all records
load in milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from recipe.finetune.arguments import CheckpointArguments, StartArguments
    from recipe.finetune.starting_point import Origin

NO_SEED = 0  # the seed in the results of a suite without training
# Data arguments of all suites on which scores depend.
SHARED_SETTINGS = ("max_seq_length", "pad_to_max_length", "max_train_samples", "max_eval_samples")


@dataclass(frozen=True)
class TuningSettings:
    """Default fine-tuning settings of a task: sequences per optimizer step, peak learning rate, epochs."""

    batch_size: int
    learning_rate: float
    epochs: float


@dataclass(frozen=True)
class TaskInfo:
    """One task of a suite. `sizes` are the numbers of examples of its official splits, `epochs` the default (0 without
    training), `starts_from` the task whose fine-tuned model it can start from (--mnli_init)."""

    title: str
    hub_id: str
    sizes: dict[str, int]
    epochs: float = 0
    hub_config: str | None = None
    starts_from: str = ""
    identity: str = ""  # of a task of the user's own: a result of another one doesn't count

    @property
    def cost(self) -> float:
        """Examples that a job processes, by official size and default settings."""
        return self.sizes["train"] * self.epochs if self.epochs else sum(self.sizes.values())


@dataclass(frozen=True)
class Column:
    """One column of a score table: one metric of one split of a task."""

    task: str
    split: str
    metric: str
    key: str = ""  # its name in W&B, after that of the suite; by default the task
    dataset: str = ""  # its dataset in a model card; by default the titles of suite and column
    chance: float | None = None  # the metric of a model that always gives the most frequent answer, from 0 to 1


@dataclass(frozen=True)
class Average:
    """A mean over `columns`, shown only if none is missing; `remark` ends its description."""

    title: str
    columns: tuple[str, ...]
    remark: str = ""


class Evaluation(Protocol):
    """One prepared and checked job. For suites that train it is a recipe.finetune.finetuning.FineTuning, and its
    `trainer` runs first."""

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{split: metrics} of each evaluated split."""
        ...

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        """The JSON record of the scores, as recipe.finetune.results.build_record makes it."""
        ...

    def write_predictions(self, folder: Path) -> list[Path]:
        """Writes the predictions into `folder`, if there are any to write; returns the files."""
        ...


def _check_encoder(data: "StartArguments") -> "Origin":
    from recipe.finetune.starting_point import check_model

    return check_model(data)


@dataclass(frozen=True)
class Suite:
    """One suite. Tables keep the order of `tasks` and `columns`."""

    name: str  # of its results folder, the files in it, and its metrics in W&B
    title: str  # in text
    tasks: dict[str, TaskInfo]
    columns: dict[str, Column]
    metric_names: dict[str, str]  # in text

    # ---- its jobs
    script: str  # runs one job
    launcher: str  # runs a sweep
    # The dataclasses of the script's flags.
    arguments: Callable[[], "tuple[type[CheckpointArguments], type]"]
    prepare: Callable[[Any, Any], Evaluation]  # of instances of the two
    # Examples that a job processes, from its actual data; the estimate of the remaining time is based on it.
    cost: Callable[[Any, Any], float]
    settings: tuple[str, ...] = SHARED_SETTINGS  # data arguments that all scores of a folder share
    task_flags: Callable[[str], tuple[str, ...]] = lambda task: ("--task_name", task)
    job_flags: tuple[str, ...] = ("--do_train", "--do_eval")  # before the user's flags
    final_flags: tuple[str, ...] = ("--disable_tqdm", "true", "--report_to", "none")  # after the user's flags
    # Raises UserError for a checkpoint that the suite cannot evaluate.
    check_model: Callable[[Any], "Origin"] = _check_encoder
    default_tasks: tuple[str, ...] = ()  # of a sweep without --tasks, for the first suite
    unscored: dict[str, str] = field(default_factory=dict)  # {task without a score: error message}
    # The task in a file of the user's own; None if the name of a task is not that of such a file.
    read_task: Callable[[str], TaskInfo | None] = lambda name: None
    start_argument: str = ""  # the data argument for the model of TaskInfo.starts_from
    trains: bool = True  # False: zero-shot; its jobs have no seeds, no learning rates and no epochs

    # ---- how its scores are shown
    scale: float = 1.0  # metrics are divided by it to be fractions: 100 for percentages
    averages: tuple[Average, ...] = ()  # the first is plotted; if incomplete, the mean of what there is
    split_suffixes: dict[str, str] = field(default_factory=dict)  # of metrics in csv files, if a task has two splits
    protocol: str = "on the dev files after the last step of fine-tuning, no step chosen by dev score"
    notes: tuple[str, ...] = ()  # under its table, such as the score of a baseline
    expected: bool = False  # whether a report mentions missing scores and columns
    # Metadata of model cards: the hub's task type and tag, and the class that loads a fine-tuned model.
    task_type: str = ""
    tag: str = ""
    auto_class: str = ""

    def task_called(self, name: str) -> str | None:
        """The task with that name in any spelling (STS-B, sts_b, stsb); None if the suite has none."""
        spelled = {_plain(task): task for task in (*self.tasks, *self.unscored)}
        return spelled.get(_plain(name))

    def metric_name(self, column: str) -> str:
        """The metric of a column, as text."""
        return self.metric_names[self.columns[column].metric]

    def dataset_title(self, column: str) -> str:
        """The dataset of a column, in a model card."""
        return self.columns[column].dataset or f"{self.title} {column}"

    def wandb_key(self, column: str) -> str:
        """The metric of a column in W&B."""
        return f"{self.name}/{self.columns[column].key or self.columns[column].task}"

    def csv_name(self, split: str, metric: str) -> str:
        """The metric of a split in the suite's csv file."""
        return metric + self.split_suffixes.get(split, "")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
