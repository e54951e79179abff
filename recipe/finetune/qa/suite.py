"""The record of question answering on SQuAD: columns, and how its jobs are run and shown."""

from recipe.finetune.qa.tasks import TASKS
from recipe.finetune.suite import SHARED_SETTINGS, Column, Suite, TaskInfo


def _arguments():
    from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments

    return QaArguments, QaTrainingArguments


def _prepare(data, args):
    from recipe.finetune.qa.finetuning import prepare

    return prepare(data, args)


def _cost(data, args) -> float:
    from recipe.finetune.qa.finetuning import rows_of

    args.fill_defaults(data.recipe)
    return len(rows_of(data, args)["train"]) * args.num_train_epochs


SUITE = Suite(
    name="qa",
    title="SQuAD",
    tasks={task.name: TaskInfo(task.title, task.hub_id, task.sizes, task.recipe.epochs) for task in TASKS.values()},
    columns={
        f"{task.title} {name}": Column(
            task.name, "validation", metric, key=f"{task.name}_{name.lower()}", dataset=task.title
        )
        for task in TASKS.values()
        for name, metric in (("EM", task.exact), ("F1", "f1"))
    },
    metric_names={"exact_match": "exact match", "exact": "exact match", "f1": "F1"},
    script="run_qa.py",
    launcher="finetune_qa.sh",
    arguments=_arguments,
    prepare=_prepare,
    cost=_cost,
    settings=(
        *("dataset_name", "train_file", "validation_file", "doc_stride", "n_best_size", "max_answer_length"),
        *("null_score_diff_threshold", *SHARED_SETTINGS),
    ),
    task_flags=lambda task: ("--task_name", task, "--version_2_with_negative", str(task == "squad_v2")),
    scale=100.0,  # the official metrics are percentages
    task_type="question-answering",
    tag="squad",
    auto_class="AutoModelForQuestionAnswering",
)
