"""The paired bootstrap (Efron and Tibshirani, 1993): the difference of two scores on the same examples."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from recipe.finetune.outcomes import PREDICTION, REFERENCE, metric_of

RESAMPLES = 2000
CONFIDENCE = 0.95
_NUMBERS = 4_000_000  # counts drawn at a time: 32 MB


@dataclass(frozen=True)
class Difference:
    """`second` minus `first`, means over seeds, and the interval of CONFIDENCE that the bootstrap gives. `samples` are
    the resampled differences. `p_value` is that of McNemar's exact test, None where the metric isn't the share of
    correct examples or there are several seeds."""

    first: float
    second: float
    low: float
    high: float
    samples: np.ndarray
    p_value: float | None = None

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def told_apart(self) -> bool:
        """Whether 0 is outside of the interval."""
        return not self.low <= 0.0 <= self.high


def difference(
    metric: str, first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]], seed: int = 0
) -> Difference:
    """Compares `metric` of two models, each with the outcomes of one job per seed (recipe.finetune.outcomes.metric_of).

    Each resample draws the examples with replacement, the same ones for both models, computes the metric of every job
    on them, and averages over jobs that are drawn with replacement, too. So the interval holds the chance of the
    examples and, where there are several seeds, of the seeds.
    """
    count = {len(values) for job in (*first, *second) for values in job.values()}
    if len(count) > 1:
        raise ValueError(f"found outcomes of {sorted(count)} examples, expected the same examples")
    (examples,) = count
    # Examples with equal outcomes everywhere are one kind: it is drawn so many times.
    columns = np.stack([values.astype(np.float64) for job in (*first, *second) for values in job.values()])
    kinds, counts = np.unique(columns, axis=1, return_counts=True)
    rows = iter(kinds)
    first, second = ([{name: next(rows) for name in job} for job in jobs] for jobs in (first, second))
    generator = np.random.default_rng(seed)
    sides: list[list[np.ndarray]] = [[], []]
    size = max(1, min(RESAMPLES, _NUMBERS // len(counts)))
    for start in range(0, RESAMPLES, size):
        drawn = generator.multinomial(examples, counts / examples, min(size, RESAMPLES - start))
        for side, jobs in zip(sides, (first, second), strict=True):
            scores = np.stack([metric_of(metric, job, drawn) for job in jobs])  # [seeds, resamples]
            weights = generator.multinomial(len(jobs), np.full(len(jobs), 1 / len(jobs)), scores.shape[1]).T
            side.append((scores * weights).sum(0) / len(jobs))
    samples = np.concatenate(sides[1]) - np.concatenate(sides[0])
    values = [float(np.mean([metric_of(metric, job, counts) for job in jobs])) for jobs in (first, second)]
    return _difference(values[0], values[1], samples, _mcnemar(metric, first, second, counts))


def mean_difference(parts: list[Difference]) -> Difference:
    """The difference of the means over several tasks, whose examples are independent of each other."""
    samples = np.mean([part.samples for part in parts], axis=0)
    first, second = (float(np.mean([getattr(part, name) for part in parts])) for name in ("first", "second"))
    return _difference(first, second, samples)


def _difference(first: float, second: float, samples: np.ndarray, p_value: float | None = None) -> Difference:
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(first, second, float(low), float(high), samples, p_value)


def _mcnemar(metric: str, first: list[dict], second: list[dict], counts: np.ndarray) -> float | None:
    """The p-value of McNemar's exact test (1947): whose are the examples that one model alone has right?"""
    if len(first) > 1 or len(second) > 1 or not metric.startswith(("accuracy", "exact")):
        return None
    right = [
        job[PREDICTION] == job[REFERENCE] if PREDICTION in job else job[metric] == job[metric].max()
        for job in (*first, *second)
    ]
    only = [int(counts[a & ~b].sum()) for a, b in (right, right[::-1])]
    return float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
