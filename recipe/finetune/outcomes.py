"""What a job keeps of every dev example, so that two scores can be compared example by example.

A job's outcomes are one compressed file of arrays whose last axis is the examples of a split: `<split>/prediction` and
`<split>/reference` of labels or scores, from which any metric is computed; `<split>/matched`, `predicted` and `actual`,
numbers of entities, from which F1 is; or `<split>/<metric>`, each example's own part of a metric that is a mean over
them.
"""

import io
from pathlib import Path
from typing import cast

import numpy as np

from recipe.system.files import write_atomically

FILE = "outcomes.npz"
PREDICTION, REFERENCE = "prediction", "reference"
MATCHED, PREDICTED, ACTUAL = "matched", "predicted", "actual"


def write_outcomes(folder: Path, arrays: dict[str, dict[str, np.ndarray]]) -> Path:
    """Writes {split: {name: [examples]}} and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"{split}/{name}": _small(values) for split, of in arrays.items() for name, values in of.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast(dict, named))
    write_atomically(folder / FILE, buffer.getvalue())
    return folder / FILE


def _small(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind in "iu" and len(values) and values.min() >= -128 and values.max() <= 127:
        return values.astype(np.int8)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def read_outcomes(folder: Path, split: str, metric: str) -> dict[str, np.ndarray] | None:
    """The arrays from which `metric` of `split` is computed: {metric: [examples]}, or prediction and reference; None
    where the job kept none, or the file can't be read."""
    try:
        with np.load(folder / FILE) as stored:
            if f"{split}/{metric}" in stored:
                return {metric: stored[f"{split}/{metric}"].astype(np.float64)}
            names = (MATCHED, PREDICTED, ACTUAL) if f"{split}/{MATCHED}" in stored else (PREDICTION, REFERENCE)
            return {name: stored[f"{split}/{name}"] for name in names}
    except (OSError, ValueError, KeyError, EOFError):
        return None


def metric_of(metric: str, arrays: dict[str, np.ndarray], weights: np.ndarray | None = None) -> np.ndarray:
    """`metric` over the examples, each counted `weights` [..., examples] times (by default once): one value for each
    row of weights.

    Accuracy, F1 of the class 1, Matthews, Pearson and Spearman correlation are those of scikit-learn and scipy; an
    undefined one is 0. Any other metric is the mean of the array of that name.
    """
    count = len(next(iter(arrays.values())))
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if metric in arrays:
        return _mean(arrays[metric], weights)
    if MATCHED in arrays:
        found, said, true = (weights @ arrays[name].astype(np.float64) for name in (MATCHED, PREDICTED, ACTUAL))
        return _divided(2.0 * found, said + true)
    return _METRICS[metric](arrays[PREDICTION], arrays[REFERENCE], weights)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values.astype(np.float64) / weights.sum(-1)


def _accuracy(prediction: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean(prediction == reference, weights)


def _f1(prediction: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    said, true = prediction == 1, reference == 1
    return _divided(2.0 * (weights @ (said & true)), weights @ said + weights @ true)


def _pearson(prediction: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _correlation(prediction.astype(np.float64), reference.astype(np.float64), weights)


def _spearman(prediction: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _correlation(_ranks(prediction, weights), _ranks(reference, weights), weights)


def _correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's, of values [examples] or [..., examples]."""
    total = weights.sum(-1, keepdims=True)
    first, second = (values - (weights * values).sum(-1, keepdims=True) / total for values in (first, second))
    shared = (weights * first * second).sum(-1)
    return _divided(shared, np.sqrt((weights * first**2).sum(-1) * (weights * second**2).sum(-1)))


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[..., examples]: the mean rank of each value among all, each counted `weights` times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    of_group = np.add.reduceat(weights[..., order], starts, axis=-1)
    return (np.cumsum(of_group, -1) - (of_group - 1) / 2)[..., group]


def _divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _pearson,  # of two classes it is their correlation
    "pearson": _pearson,
    "spearmanr": _spearman,
}
