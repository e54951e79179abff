"""The record of named entities: columns, and how its jobs are run and shown."""

from recipe.finetune.suite import SHARED_SETTINGS, Column, Suite, TaskInfo, TuningSettings

WNUT17_SIZES = {"train": 3394, "validation": 1009, "test": 1287}
SETTINGS = TuningSettings(batch_size=16, learning_rate=5e-5, epochs=5)  # small models need a higher rate, 5e-4 or so


def _arguments():
    from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments

    return NerArguments, NerTrainingArguments


def _prepare(data, args):
    from recipe.finetune.ner.finetuning import prepare

    return prepare(data, args)


def _cost(data, args) -> float:
    from recipe.finetune.ner.finetuning import rows_of

    args.fill_defaults(data.recipe)
    return len(rows_of(data, args)["train"]) * args.num_train_epochs


SUITE = Suite(
    name="ner",
    title="named entities",
    tasks={"wnut17": TaskInfo("WNUT-17", "leondz/wnut_17", WNUT17_SIZES, SETTINGS.epochs)},
    columns={"WNUT-17": Column("wnut17", "validation", "f1", dataset="WNUT-17", chance=0.0)},
    metric_names={"f1": "F1 over entities"},
    script="run_ner.py",
    launcher="finetune_glue.sh",
    arguments=_arguments,
    prepare=_prepare,
    cost=_cost,
    settings=("dataset_name", "train_file", "validation_file", "doc_stride", "label_all_tokens", *SHARED_SETTINGS),
    task_type="token-classification",
    tag="ner",
    auto_class="AutoModelForTokenClassification",
)
