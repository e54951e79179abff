"""The results of fine-tuning on disk: one JSON a job, whole or not there, and GLUE's submission files."""

import json
import os
from pathlib import Path

import numpy as np

from recipe.glue import Task

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


def write_submission(
    folder: Path, task: Task | None, labels: tuple[str, ...], split: str, predictions: np.ndarray
) -> Path:
    """Writes predictions [rows] as GLUE's server wants them, columns `index` and `prediction`: class names for the
    entailment tasks that have them, ids for the others, scores within its scale for STS-B. Data of one's own (`task`
    None) gets class names or scores. Returns the file."""
    title = task.title if task else "predictions"
    file = folder / (_MNLI_FILES.get(split, f"{title}.tsv"))
    if not labels:
        limits = (0.0, 5.0) if task else (-np.inf, np.inf)
        values = [f"{value:.3f}" for value in np.clip(predictions, *limits)]
    else:
        named = task is None or task.submit_names
        values = [labels[value] if named else str(value) for value in predictions]
    lines = ["index\tprediction", *(f"{number}\t{value}" for number, value in enumerate(values))]
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".tmp")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(file)
    return file
