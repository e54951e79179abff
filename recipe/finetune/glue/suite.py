"""The record of GLUE: columns, averages, and how its jobs are run and shown."""

from recipe.finetune.glue.tasks import GLUE_HUB_ID, TASKS
from recipe.finetune.suite import SHARED_SETTINGS, Average, Column, Suite, TaskInfo

FROM_MNLI = (
    "rte",
    "mrpc",
    "stsb",
)  # small tasks that start from MNLI's model in RoBERTa (Liu et al., 2019)

# MNLI has one for each of its two dev splits. Chance is that of the official dev files: the share of the most frequent
# label, for F1 that of a model that always says yes, for correlations 0.
_COLUMNS = {
    "CoLA": Column("cola", "validation", "matthews_correlation", chance=0.0),
    "SST-2": Column("sst2", "validation", "accuracy", chance=0.509),
    "MRPC": Column("mrpc", "validation", "f1", chance=0.812),
    "STS-B": Column("stsb", "validation", "spearmanr", chance=0.0),
    "QQP": Column("qqp", "validation", "f1", chance=0.538),
    "MNLI-m": Column("mnli", "validation_matched", "accuracy", chance=0.354),
    "MNLI-mm": Column("mnli", "validation_mismatched", "accuracy", key="mnli_mm", chance=0.352),
    "QNLI": Column("qnli", "validation", "accuracy", chance=0.505),
    "RTE": Column("rte", "validation", "accuracy", chance=0.527),
    "WNLI": Column("wnli", "validation", "accuracy", chance=0.563),
}


def _arguments():
    from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments

    return GlueArguments, FineTuneArguments


def _prepare(data, args):
    from recipe.finetune.glue.finetuning import prepare

    return prepare(data, args)


def _cost(data, args) -> float:
    from recipe.finetune.glue.finetuning import rows_of

    args.fill_defaults(data.recipe)
    return len(rows_of(data, args).splits["train"]) * args.num_train_epochs


def _read_task(name: str) -> TaskInfo | None:
    from recipe.finetune.glue.own_tasks import is_task_file, read_own_task

    return read_own_task(name).info() if is_task_file(name) else None


SUITE = Suite(
    name="glue",
    title="GLUE",
    tasks={
        task.name: TaskInfo(
            task.title,
            GLUE_HUB_ID,
            task.sizes,
            task.recipe.epochs,
            hub_config=task.name,
            starts_from="mnli" if task.name in FROM_MNLI else "",
        )
        for task in TASKS.values()
        if task.dev_splits
    },
    columns=_COLUMNS,
    metric_names={
        "matthews_correlation": "Matthews correlation",
        "accuracy": "accuracy",
        "f1": "F1",
        "spearmanr": "Spearman correlation",
        "pearson": "Pearson correlation",
    },
    script="run_glue.py",
    launcher="finetune_glue.sh",
    arguments=_arguments,
    prepare=_prepare,
    cost=_cost,
    settings=("glue_data", *SHARED_SETTINGS),
    default_tasks=("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"),
    unscored={"ax": "AX has only a test file and no score: leave it out, see --do_predict of run_glue.py"},
    read_task=_read_task,
    start_argument="mnli_model",
    # The first: one headline metric for each of eight tasks, without WNLI, whose dev split is constructed so that a
    # model that learned from the training split scores below chance. The second: the columns of the table that
    # BiEchi/RoBERTa-Pretrain published for RoBERTa-medium and BERT-medium, which lists CoLA separately.
    averages=(
        Average("average", ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "QNLI", "RTE"), " (GLUE without WNLI)"),
        Average(
            "average without CoLA",
            ("SST-2", "MNLI-m", "MNLI-mm", "QNLI", "MRPC", "STS-B", "QQP", "RTE", "WNLI"),
            ", as some tables have it, where CoLA stands apart",
        ),
    ),
    split_suffixes={"validation_mismatched": "_mm"},
    expected=True,
    task_type="text-classification",
    tag="glue",
    auto_class="AutoModelForSequenceClassification",
)
