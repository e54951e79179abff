"""Predictions of test splits, as GLUE's evaluation server and the Hugging Face example script have them."""

from pathlib import Path

import numpy as np

from recipe.finetune.glue.rows import TaskRows
from recipe.finetune.glue.tasks import Task
from recipe.system.files import write_atomically

_MNLI_FILES = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}


def write_predictions(
    folder: Path, task: Task | None, rows: TaskRows, split: str, predictions: np.ndarray
) -> list[Path]:
    """Writes predictions [rows] of a test split into two files with the columns `index` and `prediction`; `index` is
    what the split's own file numbers its rows by, 0, 1 ... where it doesn't. Returns the files.

    The first is what GLUE's server takes: class names for the entailment tasks that have them, ids for the others,
    scores within its scale for STS-B; class names or scores for data of one's own (`task` None). The second,
    predict_results_<task>.txt, is what the Hugging Face example script leaves: names of classes, or scores.
    """
    title = task.title if task else "predictions"
    name = task.name if task else "None"  # what that script calls data of one's own
    name += "-mm" if split == "test_mismatched" else ""
    files = folder / _MNLI_FILES.get(split, f"{title}.tsv"), folder / f"predict_results_{name}.txt"
    if rows.labels:
        names = [rows.labels[value] for value in predictions]
        submitted = names if task is None or task.submit_names else [str(value) for value in predictions]
    else:
        names = [f"{value:.3f}" for value in predictions]
        submitted = [f"{value:.3f}" for value in np.clip(predictions, 0.0, 5.0)] if task else names
    index = rows.splits[split].index or range(len(predictions))
    folder.mkdir(parents=True, exist_ok=True)
    for file, values in zip(files, (submitted, names), strict=True):
        lines = ["index\tprediction", *(f"{number}\t{value}" for number, value in zip(index, values, strict=True))]
        write_atomically(file, ("\n".join(lines) + "\n").encode())
    return list(files)
