"""GLUE's metrics as a module for `evaluate.load(<this folder>, task)`: scikit-learn and scipy do the arithmetic.

Every value is defined. Where the formula divides by zero because one side is constant, F1, Matthews' and the two
rank correlations are 0: a constant says nothing about the other side.
"""

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

CLASSIFICATION = ("accuracy", "cola", "sst2", "mrpc", "qqp", "mnli", "ax", "qnli", "rte", "wnli")
REGRESSION = ("stsb", "regression")


def correlation(measure, predictions: np.ndarray, references: np.ndarray) -> float:
    """pearsonr or spearmanr in [-1, 1]; 0 where either side is constant or has fewer than two values."""
    if len(predictions) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    value = float(measure(predictions, references)[0])
    return value if np.isfinite(value) else 0.0  # nearly constant: the spread was lost in rounding


class Glue(evaluate.Metric):
    """`config_name` is a task of GLUE, or `accuracy` or `regression` for data of one's own."""

    def _info(self):
        if self.config_name not in CLASSIFICATION + REGRESSION:
            known = ", ".join(CLASSIFICATION + REGRESSION)
            raise KeyError(f"found the metric config {self.config_name!r}, expected one of {known}")
        kind = datasets.Value("float64" if self.config_name in REGRESSION else "int64")
        return evaluate.MetricInfo(
            description="The metrics of the GLUE benchmark (Wang et al., 2018).",
            citation="",
            inputs_description="predictions and references: class ids, or scores for a regression",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions, references):
        predictions, references = np.asarray(predictions), np.asarray(references)
        if self.config_name in REGRESSION:
            error = {"mse": float(np.mean((predictions - references) ** 2))} if self.config_name == "regression" else {}
            return {
                "pearson": correlation(pearsonr, predictions, references),
                "spearmanr": correlation(spearmanr, predictions, references),
                **error,
            }
        if self.config_name == "cola":
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
        scores = {"accuracy": float(accuracy_score(references, predictions))}
        if self.config_name in ("mrpc", "qqp"):
            scores["f1"] = float(f1_score(references, predictions, zero_division=0.0))
        return scores
