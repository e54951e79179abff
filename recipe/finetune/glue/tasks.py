"""Metadata of the GLUE tasks (Wang et al., 2018): columns, labels, metric, default settings, sizes of the splits."""

from dataclasses import dataclass, field

from recipe.finetune.suite import TuningSettings
from recipe.system.errors import UserError

GLUE_HUB_ID = "nyu-mll/glue"


@dataclass(frozen=True)
class Layout:
    """The columns of one official TSV file; `header` is None if the first line names them."""

    texts: tuple[str, ...]
    label: str | None
    header: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Task:
    """One task. `labels` are the class names by id; () means a regression to a score in [0, 5]."""

    name: str  # as in --task_name and on the hub
    title: str  # as in tables, and the name of the official folder
    texts: tuple[str, ...]  # columns on the hub
    labels: tuple[str, ...]
    headline: str  # the metric used in averages
    recipe: TuningSettings
    train: Layout
    test: Layout
    sizes: dict[str, int] = field(default_factory=dict)  # numbers of rows of the official splits
    dev_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    submit_names: bool = False  # GLUE's server expects class names for this task, ids for the others
    malformed_rows: int = 0  # rows of the official training file that lack a field

    @property
    def regression(self) -> bool:
        return not self.labels


_SENTENCES = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI_LABELS = ("entailment", "neutral", "contradiction")
_PAIRS = Layout(_SENTENCES, "label")
_PAIRS_TEST = Layout(_SENTENCES, None)

# Batch size, learning rate and epochs are those of MosaicBERT (Portes et al., 2023) and similar work for encoders of 40
# to 110 M parameters; smaller models need higher learning rates, see --learning_rates of the sweep. WNLI has those of
# RTE, a similar dataset. Other settings differ from MosaicBERT's finetuning_jobs.py, which uses 256 tokens and AdamW
# with betas 0.9 and 0.98, epsilon 1e-6 and a decoupled weight decay of a tenth of the learning rate (for RTE: equal to
# it). Here all tasks use 128 tokens, transformers' defaults (betas 0.9 and 0.999, epsilon 1e-8, no weight decay) and
# 6 % warm-up. For MosaicBERT's: --max_seq_length 256 --adam_beta2 0.98 --adam_epsilon 1e-6 --weight_decay 0.1
# (transformers' AdamW multiplies the weight decay by the learning rate).
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), "matthews_correlation",
            TuningSettings(32, 5e-5, 10),
            Layout(("sentence",), "label", header=("source", "label", "mark", "sentence")),
            Layout(("sentence",), None),
            {"train": 8551, "validation": 1043, "test": 1063},
        ),
        Task(
            "sst2", "SST-2", ("sentence",), ("negative", "positive"), "accuracy",
            TuningSettings(16, 3e-5, 3),
            Layout(("sentence",), "label"), Layout(("sentence",), None),
            {"train": 67349, "validation": 872, "test": 1821},
        ),
        Task(
            "mrpc", "MRPC", _SENTENCES, ("not_equivalent", "equivalent"), "f1",
            TuningSettings(32, 8e-5, 10),
            Layout(("#1 String", "#2 String"), "Quality"), Layout(("#1 String", "#2 String"), None),
            {"train": 3668, "validation": 408, "test": 1725},
        ),
        Task(
            "stsb", "STS-B", _SENTENCES, (), "spearmanr",
            TuningSettings(32, 3e-5, 10),
            Layout(_SENTENCES, "score"), _PAIRS_TEST,
            {"train": 5749, "validation": 1500, "test": 1379},
        ),
        Task(
            "qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), "f1",
            TuningSettings(16, 3e-5, 5),
            Layout(("question1", "question2"), "is_duplicate"), Layout(("question1", "question2"), None),
            {"train": 363846, "validation": 40430, "test": 390965},
            malformed_rows=24,
        ),
        Task(
            "mnli", "MNLI", ("premise", "hypothesis"), _MNLI_LABELS, "accuracy",
            TuningSettings(48, 5e-5, 3),
            Layout(_SENTENCES, "gold_label"), _PAIRS_TEST,
            {
                "train": 392702, "validation_matched": 9815, "validation_mismatched": 9832,
                "test_matched": 9796, "test_mismatched": 9847,
            },
            dev_splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
            submit_names=True,
        ),
        Task(
            "qnli", "QNLI", ("question", "sentence"), _ENTAILMENT, "accuracy",
            TuningSettings(16, 1e-5, 10),
            Layout(("question", "sentence"), "label"), Layout(("question", "sentence"), None),
            {"train": 104743, "validation": 5463, "test": 5463},
            submit_names=True,
        ),
        Task(
            "rte", "RTE", _SENTENCES, _ENTAILMENT, "accuracy",
            TuningSettings(16, 1e-5, 3),
            _PAIRS, _PAIRS_TEST,
            {"train": 2490, "validation": 277, "test": 3000},
            submit_names=True,
        ),
        Task(
            "wnli", "WNLI", _SENTENCES, ("not_entailment", "entailment"), "accuracy",
            TuningSettings(16, 1e-5, 3),
            _PAIRS, _PAIRS_TEST,
            {"train": 635, "validation": 71, "test": 146},
        ),
        Task(
            "ax", "AX", ("premise", "hypothesis"), _MNLI_LABELS, "accuracy",
            TuningSettings(48, 5e-5, 3),
            _PAIRS, _PAIRS_TEST,
            {"test": 1104},
            dev_splits=(),
            submit_names=True,
        ),
    )
}  # fmt: skip


def task_called(name: str) -> Task:
    """The task with that name in any spelling (STS-B, sts_b, stsb). Raises UserError if there is none."""
    key = name.lower().replace("-", "").replace("_", "")
    if key not in TASKS:
        raise UserError(f"found the unknown task {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[key]
