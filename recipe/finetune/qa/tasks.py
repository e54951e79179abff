"""The two versions of SQuAD: hub repository, sizes of the official splits, and default fine-tuning settings.

SQuAD 1.1: Rajpurkar et al., 2016; 2.0, with questions that have no answer: Rajpurkar et al., 2018.
"""

from dataclasses import dataclass

from recipe.finetune.suite import TuningSettings


@dataclass(frozen=True)
class Squad:
    """One version. `sizes` are the numbers of questions of the official splits."""

    name: str  # as in --tasks of a sweep
    title: str  # as in tables
    hub_id: str
    sizes: dict[str, int]
    exact: str  # the name of exact match in the official script
    recipe: TuningSettings


_SETTINGS = TuningSettings(32, 5e-5, 3)  # for encoders of 100 M parameters; smaller models need a higher learning rate
TASKS = {
    task.name: task
    for task in (
        Squad("squad", "SQuAD", "rajpurkar/squad", {"train": 87_599, "validation": 10_570}, "exact_match", _SETTINGS),
        Squad(
            "squad_v2", "SQuAD 2", "rajpurkar/squad_v2", {"train": 130_319, "validation": 11_873}, "exact", _SETTINGS
        ),
    )
}
