"""The results of fine-tuning on disk: one JSON a job, whole or not there, and GLUE's submission files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recipe.finetune.glue.rows import TaskRows
from recipe.finetune.glue.tasks import Task
from recipe.system.files import DamagedFile, read_json, read_object, write_atomically, write_json

RESULTS = "jobs"  # the folder of a sweep that holds them
_MNLI_FILES = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}


def result_file(folder: Path, task: str, seed: int) -> Path:
    """Where the record of (task, seed) lies in a checkpoint's folder of results."""
    return folder / f"{task}-seed{seed}.json"


def read_result(file: Path) -> dict | None:
    """The record of a job, None where there is none. Raises DamagedFile where it isn't as fine-tuning writes it."""
    try:
        record = read_object(file)
    except FileNotFoundError:
        return None
    try:
        whole = _is_result(record)
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DamagedFile("is no record of a fine-tuning")
    return record


def _is_result(record: dict) -> bool:
    """Whether everything that tables, curves, cards and trackers read of a record is there and of its kind."""
    checkpoint, settings = record["checkpoint"], record["settings"]
    factors = ("per_device_train_batch_size", "gradient_accumulation_steps", "devices", "max_steps")
    sizes = [record["examples"]["train"], *record["examples"].values()]
    scores = [value for metrics in record["metrics"].values() for value in metrics.values()]
    return (
        all(isinstance(text, str) for text in (record["task"], checkpoint["name"], checkpoint["path"]))
        and all(_is_number(checkpoint[name], or_none=True) for name in ("step", "tokens_seen"))
        and isinstance(checkpoint["sha256"], str | None)
        and isinstance(record.get("variant", ""), str)
        and isinstance(record["started_from_mnli"], str | None)
        and isinstance(record["headline"]["metric"], str)
        and bool(scores)
        and all(_is_number(value) for value in (*scores, record["headline"]["value"], record["seconds"]))
        and all(_is_number(value) for value in (settings["learning_rate"], settings["num_train_epochs"]))
        and all(type(value) is int for value in (record["seed"], *(settings[name] for name in factors)))
        and all(type(size["used"]) is int and isinstance(size["subset"], bool) for size in sizes)
    )


def _is_number(value: object, or_none: bool = False) -> bool:
    return (value is None and or_none) or (isinstance(value, int | float) and not isinstance(value, bool))


def read_results(sweep: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict]:
    """Every record under the folder of a sweep, in the order of their paths; says through `warn` which are damaged."""
    records = []
    for file in sorted((sweep / RESULTS).rglob("*-seed*.json")):
        try:
            record = read_result(file)
        except DamagedFile as error:
            warn(f"warning: {file} {error}: left out; run the sweep again and the job is done anew")
            continue
        records += [record] if record else []
    return records


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
    before = read_json(folder / "all_results.json") or {}
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
        write_atomically(file, ("\n".join(lines) + "\n").encode())
    return list(files)
