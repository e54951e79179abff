"""Metrics of a language model beside its loss: one record each, for the log, the console, reports and model cards."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

PREFIXES = ("masked_", "")  # of the metrics of masked and of causal models


@dataclass(frozen=True)
class Metric:
    """A mean over all predicted tokens, whose key in METRICS is its name: eval_masked_<name>, eval_<name> if causal."""

    # Logits [n, vocabulary] in fp32 and labels [n] (-100: not counted) to the sum over the counted labels, a scalar.
    total: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    form: str = ".1%"  # how it is shown


METRICS: dict[str, Metric] = {
    "accuracy": Metric(total=lambda logits, labels: (logits.argmax(-1) == labels).sum()),
}


def shown_metrics(logs: Mapping[str, float]) -> dict[str, str]:
    """The metrics among the numbers of an evaluation, by title, as they are shown: {"masked accuracy": "12.5%"}."""
    return {
        f"{prefix}{name}".replace("_", " "): f"{logs[key]:{metric.form}}"
        for name, metric in METRICS.items()
        for prefix in PREFIXES
        if isinstance(logs.get(key := f"eval_{prefix}{name}"), int | float) and not math.isnan(logs[key])
    }
