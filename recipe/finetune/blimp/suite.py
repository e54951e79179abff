"""The record of BLiMP: columns, and how its jobs are run and shown."""

from recipe.finetune.suite import Column, Suite, TaskInfo

BLIMP_HUB_ID = "nyu-mll/blimp"
# In the order of the table; files of pairs without a field fill the first columns alone.
FIELDS = ("morphology", "syntax", "semantics", "syntax/semantics")


def field_metric(field: str) -> str:
    """The name of the accuracy in one field of linguistics."""
    return f"accuracy_{field.replace('/', '_')}"


def _arguments():
    from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun

    return BlimpArguments, BlimpRun


def _prepare(data, args):
    from recipe.finetune.blimp.evaluation import prepare

    return prepare(data, args)


def _cost(data, args) -> float:
    from recipe.finetune.blimp.evaluation import pairs_of

    return len(pairs_of(data))


def _check_model(data):
    from recipe.finetune.blimp.evaluation import check_model

    return check_model(data)


def _column(metric: str, key: str, chance: float | None = 0.5) -> Column:
    return Column("blimp", "validation", metric, key=key, dataset="BLiMP", chance=chance)


SUITE = Suite(
    name="blimp",
    title="BLiMP",
    tasks={"blimp": TaskInfo("BLiMP", BLIMP_HUB_ID, {"validation": 67_000})},
    columns={
        "BLiMP": _column("accuracy", "accuracy"),
        **{field: _column(field_metric(field), field_metric(field).removeprefix("accuracy_")) for field in FIELDS},
        "within-word": _column("within_word_accuracy", "within_word"),
        "unigram": _column("unigram_accuracy", "unigram"),
    },
    metric_names={
        "accuracy": "accuracy",
        **{field_metric(field): "accuracy" for field in FIELDS},
        "within_word_accuracy": "accuracy",
        "unigram_accuracy": "accuracy",
    },
    script="run_blimp.py",
    launcher="finetune_glue.sh",
    arguments=_arguments,
    prepare=_prepare,
    cost=_cost,
    settings=("blimp_data", "max_eval_samples", "within_word"),
    task_flags=lambda task: (),
    job_flags=(),
    final_flags=("--disable_tqdm", "true"),
    check_model=_check_model,
    trains=False,
    protocol="of minimal pairs whose acceptable sentence the model finds likelier, without training; a tie counts half",
    notes=(
        "BLiMP and its fields: pseudo-log-likelihood, each token masked in turn (Salazar et al., 2020); a causal "
        "model's is the sum of its log-probabilities. within-word: the later tokens of a word are masked, too (Kauf "
        "and Ivanova, 2023). unigram: by the frequencies of tokens in the training text alone. Chance is 50.",
    ),
    task_type="fill-mask",
    tag="blimp",
)
