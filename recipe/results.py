"""The results of fine-tuning on disk: one JSON a job, whole or not there, and GLUE's submission files."""

import json
import os
from pathlib import Path

import numpy as np

from recipe.glue import Task
from recipe.glue_rows import TaskRows

RESULTS = "jobs"  # the folder of a sweep that holds them
_MNLI_FILES = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}


def result_file(folder: Path, task: str, seed: int) -> Path:
    """Where the record of (task, seed) lies in a checkpoint's folder of results."""
    return folder / f"{task}-seed{seed}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` so that `path` is whole at any moment, whoever else writes beside us."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    partial.replace(path)


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as a file that is whole at any moment, in a folder that is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict | None:
    """The content of a JSON file, None where there is none or it isn't JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_results(sweep: Path) -> list[dict]:
    """Every record under the folder of a sweep, in the order of their paths."""
    files = sorted((sweep / RESULTS).rglob("*-seed*.json"))
    return [record for file in files if (record := read_json(file)) and "metrics" in record]


def eval_results(scores: dict[str, dict[str, float]], samples: dict[str, int]) -> dict[str, float]:
    """The metrics of all dev splits, named as the Hugging Face example scripts do: eval_accuracy, eval_samples ... with
    _mm behind those of MNLI's mismatched half; eval_combined_score is the mean of two metrics, where there are two."""
    results: dict[str, float] = {}
    for split, metrics in scores.items():
        end = "_mm" if split == "validation_mismatched" else ""
        values = {**metrics, "samples": samples[split]}
        for several in (("accuracy", "f1"), ("pearson", "spearmanr")):
            if set(several) <= set(metrics):
                values["combined_score"] = sum(metrics[name] for name in several) / len(several)
        results |= {f"eval_{name}{end}": value for name, value in values.items()}
    return results


def write_metrics(folder: Path, part: str, metrics: dict) -> None:
    """Writes <part>_results.json, and the same beside what is in all_results.json."""
    write_json(folder / f"{part}_results.json", dict(sorted(metrics.items())))
    before = read_json(folder / "all_results.json")
    before = before if isinstance(before, dict) else {}
    write_json(folder / "all_results.json", dict(sorted((before | metrics).items())))


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
        write_whole(file, ("\n".join(lines) + "\n").encode())
    return list(files)
