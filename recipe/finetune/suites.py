"""The registry of suites, and look-ups in it: the suite of a task, tasks by name, the columns of all tables."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module

from recipe.finetune.suite import Column, Suite, TaskInfo
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


def suites_with(headlines: Mapping[str, str]) -> tuple[Suite, ...]:
    """All suites. A task that none of them has, of {task: metric}, is one of the user's own: the default suite has it
    and a column with that metric after its others."""
    known = {task for suite in SUITES.values() for task in suite.tasks}
    own = {task: metric for task, metric in headlines.items() if task not in known}
    first, *others = SUITES.values()
    if own:
        first = replace(
            first,
            title=f"{first.title} and own tasks" if known & set(headlines) & set(first.tasks) else "Own tasks",
            tasks=first.tasks | {task: TaskInfo(task, task, {}) for task in own},
            columns=first.columns
            | {task: Column(task, "validation", metric, dataset=task) for task, metric in own.items()},
        )
    return (first, *others)


def columns_of(suites: Iterable[Suite]) -> dict[str, Column]:
    """The columns of the suites' tables."""
    return {title: column for suite in suites for title, column in suite.columns.items()}


def select(names: list[str]) -> tuple[Suite, list[str]]:
    """The tasks with these names, in any spelling, and their suite. The name of a file with a task of the user's own
    stands for that task, which the suite then has. Raises UserError for an unknown task, for one without a score, for
    two tasks of one name, and for tasks of several suites."""
    found = [_find(name) for name in names]
    suites = {suite.title: suite for suite, *_ in found}
    if len(suites) > 1:
        raise UserError(
            f"found the tasks {', '.join(task for _, task, _ in found)}, expected those of "
            f"{' or those of '.join(suites)}: {'two' if len(suites) == 2 else len(suites)} sweeps"
        )
    for suite, task, _ in found:
        if task in suite.unscored:
            raise UserError(suite.unscored[task])
    (suite,) = suites.values()
    own = {task: (info, name) for (_, task, info), name in zip(found, names, strict=True) if info}
    for (_, task, info), name in zip(found, names, strict=True):
        if info:
            _require_own_name(task, name, own[task][1])
    flags = suite.task_flags
    with_own = replace(
        suite,
        tasks=suite.tasks | {task: info for task, (info, _) in own.items()},
        task_flags=lambda task: flags(own[task][1] if task in own else task),
    )
    return with_own, [task for _, task, _ in found]


def _require_own_name(task: str, file: str, last: str) -> None:
    """Raises UserError where a task file names its task as another file, the `last` one of that name, or as a task or
    a column that there is."""
    taken = {known.lower() for suite in SUITES.values() for known in (*suite.tasks, *suite.columns)}
    whose = last if last != file else "another task" if task.lower() in taken else ""
    if whose:
        raise UserError(f"{file}: found name: {task}, which is that of {whose}, expected one of its own: rename it")


def _find(name: str) -> tuple[Suite, str, TaskInfo | None]:
    """(suite, task, what a file of the user's own says about it)"""
    for suite in SUITES.values():
        if task := suite.task_called(name):
            return suite, task, None
        if info := suite.read_task(name):
            return suite, info.title, info
    known = ", ".join(task for suite in SUITES.values() for task in suite.tasks)
    raise UserError(f"found the unknown task {name!r}, expected one of {known}, or a .yaml file with one of your own")
