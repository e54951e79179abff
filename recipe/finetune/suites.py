"""The registry of suites, and look-ups in it: the suite of a task, the columns of all tables."""

from importlib import import_module

from recipe.finetune.suite import Column, Suite
from recipe.system.errors import UserError

# Packages under recipe/finetune/, in the order of combined tables. The first is the default: a sweep without --tasks
# runs its tasks, and results on the user's own data count as its.
PACKAGES = (
    "glue",
    "qa",
    "blimp",
    "ner",
)
_RECORDS: tuple[Suite, ...] = tuple(import_module(f"recipe.finetune.{package}.suite").SUITE for package in PACKAGES)
SUITES: dict[str, Suite] = {suite.name: suite for suite in _RECORDS}


def default_suite() -> Suite:
    """The first suite."""
    return next(iter(SUITES.values()))


def suite_of(task: str) -> Suite:
    """The suite of a task; the default suite for the user's own data."""
    return next((suite for suite in SUITES.values() if task in suite.tasks), default_suite())


def all_columns() -> dict[str, Column]:
    """The columns of all suites' tables."""
    return {title: column for suite in SUITES.values() for title, column in suite.columns.items()}


def tasks_called(names: list[str]) -> list[str]:
    """The tasks with these names, in any spelling. Raises UserError for an unknown task, for one without a score, and
    for tasks of several suites."""
    found = [_find(name) for name in names]
    suites = {suite.title: suite for suite, _ in found}
    if len(suites) > 1:
        raise UserError(
            f"found the tasks {', '.join(task for _, task in found)}, expected those of "
            f"{' or those of '.join(suites)}: {'two' if len(suites) == 2 else len(suites)} sweeps"
        )
    for suite, task in found:
        if task in suite.unscored:
            raise UserError(suite.unscored[task])
    return [task for _, task in found]


def _find(name: str) -> tuple[Suite, str]:
    for suite in SUITES.values():
        if task := suite.task_called(name):
            return suite, task
    known = ", ".join(task for suite in SUITES.values() for task in suite.tasks)
    raise UserError(f"found the unknown task {name!r}, expected one of {known}")
