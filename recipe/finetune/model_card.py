"""The model card of a fine-tuned model: README.md in its folder, generated from the record of its scores."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from recipe.finetune.suite import Suite
from recipe.system.files import write_atomically

CARD = "README.md"
MARK = "<!-- written by a fine-tuning: the next one overwrites it -->"


def write_tuned_card(folder: Path, record: dict, suite: Suite, base_model: str | None) -> Path | None:
    """Writes the card of the model in `folder` and returns the file; None if there is a README.md that no fine-tuning
    wrote. `record` is that of recipe.finetune.results.build_record; `base_model` is a hub id or None, since a local
    path would be a dead link."""
    file = folder / CARD
    if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace"):
        return None
    write_atomically(file, tuned_card_of(record, suite, base_model, folder.resolve().name).encode())
    return file


def tuned_card_of(record: dict, suite: Suite, base_model: str | None, name: str) -> str:
    """The text of the card: metadata with a model-index, checkpoint and task, scores and settings."""
    results = [
        EvalResult(
            task_type=suite.task_type,
            dataset_type=record["task"],
            dataset_name=record["task"],
            dataset_split=split,
            metric_type=metric,
            metric_name=suite.metric_names.get(metric, metric),
            metric_value=round(value, 4),
        )
        for split, metrics in record["metrics"].items()
        for metric, value in metrics.items()
    ]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=suite.task_type,
        base_model=base_model,
        model_name=name,
        eval_results=results or None,
        tags=[record["task"]],
    )
    checkpoint, examples = record["checkpoint"], record["examples"]
    sizes = ", ".join(f"{size['used']:,} {split}" for split, size in examples.items())
    scores = [f"| {result.dataset_split} | {result.metric_name} | {result.metric_value} |" for result in results]
    settings = [f"| {key} | {value} |" for key, value in record["settings"].items()]
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n{MARK}",
        f"# {name}",
        f"{checkpoint['name']} fine-tuned on {record['task']} with seed {record['seed']} ({sizes}). The score is that "
        "of the last step.",
        f'`{suite.auto_class}.from_pretrained("{name}")` loads it, `AutoTokenizer` its tokenizer.',
        "\n".join(["| split | metric | value |", "| --- | --- | --- |", *scores]) if scores else "",
        "\n".join(["| setting | value |", "| --- | --- |", *settings]),
        f"Versions: {versions}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
