"""The two kinds of fine-tuning that a sweep can do, GLUE and question answering, behind one face."""

from collections.abc import Callable
from dataclasses import dataclass

from recipe.finetune.arguments import StartArguments
from recipe.finetune.columns import GLUE, QA, suite_of
from recipe.finetune.finetuning import FineTuning
from recipe.finetune.glue import finetuning as finetune
from recipe.finetune.glue import tasks as glue
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.glue.tasks import TRAINABLE, task_called
from recipe.finetune.qa import finetuning as qa
from recipe.finetune.qa import squad
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.finetune.starting_point import Origin, config_of, origin_of, tokenizer_of
from recipe.system.errors import UserError


@dataclass(frozen=True)
class Suite:
    """One kind. `arguments` are the two dataclasses of its script's command line; `meaning` names the data arguments
    that all numbers of a folder share; `task_flags` choose a task of it."""

    name: str
    script: str
    arguments: tuple[type[StartArguments], type[FineTuneArguments]]
    meaning: tuple[str, ...]
    task_flags: Callable[[str], tuple[str, ...]]
    train_rows: Callable[[StartArguments, FineTuneArguments], int]  # examples, to tell how long a job takes
    size: Callable[[str], float]  # the same of a task, roughly, before anything is read


def _squad_flags(task: str) -> tuple[str, ...]:
    return ("--task_name", task, "--version_2_with_negative", str(task == "squad_v2"))


_SHARED = ("max_seq_length", "pad_to_max_length", "max_train_samples", "max_eval_samples")
SUITES = {
    GLUE: Suite(
        GLUE,
        "run_glue.py",
        (GlueArguments, FineTuneArguments),
        ("glue_data", *_SHARED),
        lambda task: ("--task_name", task),
        lambda data, args: len(finetune.rows_of(data, args).splits["train"]),
        lambda task: glue.TASKS[task].sizes["train"] * glue.TASKS[task].recipe.epochs,
    ),
    QA: Suite(
        QA,
        "run_qa.py",
        (QaArguments, QaTrainingArguments),
        (
            *("dataset_name", "train_file", "validation_file", "doc_stride", "n_best_size", "max_answer_length"),
            *("null_score_diff_threshold", *_SHARED),
        ),
        _squad_flags,
        lambda data, args: len(qa.rows_of(data, args)["train"]),
        lambda task: squad.TASKS[task].sizes["train"] * squad.TASKS[task].recipe.epochs,
    ),
}


DEFAULT_TASKS = tuple(name for name in TRAINABLE if name != "wnli")


def tasks_called(names: list[str]) -> list[str]:
    """The tasks of `names` in any spelling. Raises UserError for an unknown one, or for tasks of two suites."""
    tasks = [name if name in squad.TASKS else task_called(name).name for name in names]
    if len({suite_of(task) for task in tasks}) > 1:
        raise UserError(f"found the tasks {', '.join(tasks)}, expected those of GLUE or those of SQuAD: two sweeps")
    if "ax" in tasks:
        raise UserError("AX has a test file alone and no score: leave it out, see --do_predict of run_glue.py")
    return tasks


def prepare(data: StartArguments, args: FineTuneArguments) -> FineTuning:
    """What the arguments ask for, checked and built."""
    return qa.prepare(data, args) if isinstance(data, QaArguments) else finetune.prepare(data, args)


def check_model(data: StartArguments) -> Origin:
    """The checkpoint that `data` names, once its tokenizer and length are known to fit."""
    origin = origin_of(data)
    config_of(data, tokenizer_of(data))
    return origin
