"""Files of test predictions, in the formats of GLUE's evaluation server and of the Hugging Face example script."""

from pathlib import Path

import numpy as np

from recipe.finetune.glue.rows import TaskRows
from recipe.finetune.glue.tasks import Task
from recipe.system.files import write_atomically

_MNLI_FILES = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}


def write_submission(
    folder: Path, task: Task | None, rows: TaskRows, split: str, predictions: np.ndarray
) -> list[Path]:
    """Writes predictions [rows] of a test split into two files with the columns `index` and `prediction`, and returns
    them. `index` are the row numbers in the split's file, or else 0, 1 ...

    The first file is a submission to GLUE's server: class names for entailment tasks (`submit_names`), ids for the
    others, scores clipped to [0, 5] for STS-B; class names or scores for the user's own data (`task` None). The second,
    predict_results_<task>.txt, is that of the Hugging Face example script: class names or scores.
    """
    title = task.title if task else "predictions"
    name = task.name if task else "None"  # as that script names the user's own data
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
