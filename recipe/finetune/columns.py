"""The columns of a table of scores, GLUE's and SQuAD's, and in which suite's table each stands."""

from recipe.finetune.glue import tasks as glue
from recipe.finetune.qa import squad
from recipe.finetune.tasks import Column

COLUMNS: dict[str, Column] = glue.COLUMNS | squad.COLUMNS
METRIC_NAMES = glue.METRIC_NAMES | squad.METRIC_NAMES
GLUE, QA = "glue", "qa"  # the suites: each has a folder of results and a table of that name
TITLES = {GLUE: "GLUE", QA: "SQuAD"}


def suite_of(task: str) -> str:
    """The suite that a task belongs to."""
    return QA if task in squad.TASKS else GLUE


def unit_of(task: str) -> float:
    """What a metric of the task is divided by to be a share of 1: SQuAD's own script gives percentages."""
    return 100.0 if task in squad.TASKS else 1.0


def columns_of(suite: str) -> dict[str, Column]:
    """The columns of one suite's table."""
    return {name: column for name, column in COLUMNS.items() if suite_of(column[0]) == suite}
