"""Results on disk: one JSON record per job, written atomically, and the metrics files of the example scripts."""

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from recipe.finetune.starting_point import Origin
from recipe.finetune.suite import Suite
from recipe.finetune.suites import suite_of
from recipe.system.files import DamagedFile, read_json, read_object, write_json
from recipe.system.secrets import redact_all

RESULTS = "jobs"  # the folder of a sweep that holds them
PACKAGES = ("torch", "transformers", "tokenizers", "evaluate", "scikit-learn", "scipy", "numpy")


def result_file(folder: Path, task: str, seed: int) -> Path:
    """Where the record of (task, seed) lies in a checkpoint's folder of results."""
    return folder / f"{task}-seed{seed}.json"


def build_record(
    *,
    task: str,
    origin: Origin,
    seed: int,
    headline: str,
    scores: dict[str, dict[str, float]],
    sizes: dict[str, dict],
    source: str,
    settings: dict,
    seconds: float,
    started_from: str | None = None,
) -> dict:
    """The record of `scores`, {split: metrics}, of a checkpoint, without secrets. `headline` is the metric that stands
    for the task, `started_from` the fine-tuned model that the job started from. Where the task's suite trains,
    `settings` have those of the training."""
    dev = next(iter(scores), None)
    record = {
        "task": task,
        "checkpoint": asdict(origin),
        "seed": seed,
        "headline": {"metric": headline, "split": dev, "value": scores[dev][headline] if dev else None},
        "metrics": scores,
        "selected_on_dev": False,  # the score is of the last step; no checkpoint was chosen by it
        "started_from_mnli": started_from,
        "examples": sizes,
        "source": source,
        "settings": settings,
        "seconds": round(seconds, 2),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    return redact_all(record)


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
    checkpoint, settings, trained = record["checkpoint"], record["settings"], suite_of(record["task"]).trains
    numbers = ("learning_rate", "num_train_epochs") if trained else ()
    factors = ("per_device_train_batch_size", "gradient_accumulation_steps", "devices", "max_steps") if trained else ()
    sizes = [*([record["examples"]["train"]] if trained else []), *record["examples"].values()]
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
        and all(_is_number(settings[name]) for name in numbers)
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


def eval_results(suite: Suite, scores: dict[str, dict[str, float]], samples: dict[str, int]) -> dict[str, float]:
    """The metrics of all dev splits, named as the Hugging Face example scripts do: eval_accuracy, eval_samples ... with
    _mm behind those of MNLI's mismatched half; eval_combined_score is the mean of two metrics, where there are two."""
    results: dict[str, float] = {}
    for split, metrics in scores.items():
        end = suite.split_suffixes.get(split, "")
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
