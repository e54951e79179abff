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

RESULTS = "jobs"  # their folder inside that of a sweep
PACKAGES = ("torch", "transformers", "tokenizers", "evaluate", "scikit-learn", "scipy", "numpy")


def result_file(folder: Path, task: str, seed: int) -> Path:
    """The file of the record of (task, seed) in a checkpoint's folder of results."""
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
    """The record of `scores`, {split: metrics}, of a checkpoint, with secrets redacted. `headline` is the metric that
    stands for the task, `started_from` the fine-tuned model that the job started from, `seconds` its duration.
    `settings` include those of training if the suite trains."""
    dev = next(iter(scores), None)
    record = {
        "task": task,
        "checkpoint": asdict(origin),
        "seed": seed,
        "headline": {"metric": headline, "split": dev, "value": scores[dev][headline] if dev else None},
        "metrics": scores,
        "selected_on_dev": False,  # the score is that of the last step; no checkpoint was selected by dev score
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
    """Loads the record of a job; None if there is none. Raises DamagedFile if it isn't as `build_record` makes it."""
    try:
        record = read_object(file)
    except FileNotFoundError:
        return None
    try:
        valid = _is_result(record)
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise DamagedFile("is not the record of a fine-tuning")
    return record


def _is_result(record: dict) -> bool:
    """Whether all entries that tables, curves, cards and trackers read are present and of the right type."""
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
    """All records under the folder of a sweep, ordered by path. Damaged ones are left out, with a message to `warn`."""
    records = []
    for file in sorted((sweep / RESULTS).rglob("*-seed*.json")):
        try:
            record = read_result(file)
        except DamagedFile as error:
            warn(f"warning: {file} {error}: left out; run the sweep again to repeat the job")
            continue
        records += [record] if record else []
    return records


def eval_results(suite: Suite, scores: dict[str, dict[str, float]], samples: dict[str, int]) -> dict[str, float]:
    """The metrics of all dev splits under the names of the Hugging Face example scripts: eval_accuracy, eval_samples
    ..., with the suffix _mm for MNLI's mismatched split. eval_combined_score is the mean of a task's two metrics."""
    results: dict[str, float] = {}
    for split, metrics in scores.items():
        suffix = suite.split_suffixes.get(split, "")
        values = {**metrics, "samples": samples[split]}
        for pair in (("accuracy", "f1"), ("pearson", "spearmanr")):
            if set(pair) <= set(metrics):
                values["combined_score"] = sum(metrics[name] for name in pair) / len(pair)
        results |= {f"eval_{name}{suffix}": value for name, value in values.items()}
    return results


def write_metrics(folder: Path, part: str, metrics: dict) -> None:
    """Writes <part>_results.json, and adds the metrics to all_results.json."""
    write_json(folder / f"{part}_results.json", dict(sorted(metrics.items())))
    before = read_json(folder / "all_results.json") or {}
    write_json(folder / "all_results.json", dict(sorted((before | metrics).items())))
