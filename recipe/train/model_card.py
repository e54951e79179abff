"""The model card of a pre-training run, from its record and its last evaluation."""

import os
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig

from recipe.model.checkpoints import step_of
from recipe.model.config import is_causal
from recipe.model.metrics import METRICS, PREFIXES
from recipe.system.files import read_json, write_atomically
from recipe.system.secrets import redact, redact_all
from recipe.train.run_record import read_record

CARD = "README.md"
MARK = "<!-- written by python -m recipe.report.scores: it will be overwritten -->"
FORMER_MARK = "<!-- written by python -m recipe.scores: it will be overwritten -->"  # written by earlier versions
RUN_MARK = "<!-- written at the end of the pre-training: it will be overwritten -->"
# {setting in run.json: its name in the card}
SETTINGS = {
    "max_seq_length": "tokens per sequence",
    "global_batch_size": "sequences per step",
    "learning_rate": "peak learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps",
    "max_steps": "planned steps",
    "mlm_probability": "fraction of tokens predicted",
    "whole_word_mask": "whole words masked",
    "weight_decay": "weight decay",
    "optim": "optimizer",
    "seed": "seed",
    "data": "sha256 of the prepared data",
}
RUN_METRICS = (
    *("eval_loss", "eval_perplexity", "eval_unigram_loss"),
    *(f"eval_{prefix}{name}" for name in METRICS for prefix in PREFIXES),
)
_DATA_FLAGS = ("--dataset_name", "--dataset_config_name", "--train_file")


def write_run_card(run: Path, config: PreTrainedConfig, metrics: dict[str, float] | None = None) -> None:
    """Writes the model card of a pre-training run to its folder: settings, versions and `metrics`, those of its
    evaluation. It needs no network. A card that a user wrote, or that has scores, isn't changed."""
    file = run / CARD
    if not may_overwrite(file, RUN_MARK):
        return
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if is_causal(config) else "fill-mask",
        tags=["generated_from_trainer"],
        model_name=run.resolve().name,
    )
    rows = [f"| {name} | {value:.4g} |" for name, value in (metrics or {}).items() if name in RUN_METRICS]
    table = "\n".join(["## Evaluation", "", "| metric | value |", "| --- | --- |", *rows]) if rows else ""
    parts = [f"---\n{metadata.to_yaml()}\n---\n{RUN_MARK}", f"# {run.resolve().name}", table, pretraining_section(run)]
    write_card(file, "\n\n".join(part for part in parts if part) + "\n")


def may_overwrite(file: Path, *marks: str) -> bool:
    """Whether a card may be written: there is none, or one with one of `marks` (by default any), which this project
    wrote."""
    if not os.path.lexists(file):
        return True
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a folder, or a dangling link
        return False
    return any(mark in text for mark in marks or (MARK, FORMER_MARK, RUN_MARK))


def write_card(file: Path, text: str) -> bool:
    """Writes a card atomically, without secrets; returns False if the disk is read-only."""
    try:
        write_atomically(file, redact(text).encode())
    except OSError:
        return False
    return True


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to; for any other model, the model's own folder."""
    return checkpoint.resolve().parent if step_of(checkpoint) >= 0 else checkpoint.resolve()


def pretraining_section(folder: Path) -> str:
    """The card's section on pre-training, from run.json and trainer_state.json; "" without a run.json."""
    if not (record := redact_all(read_record(run_folder(folder)))):
        return ""
    signature = record.get("meaning", {})
    lines = [f"| {name} | {signature[key]} |" for key, name in SETTINGS.items() if signature.get(key) is not None]
    command = record.get("command", [])
    data = [f"`{command[n + 1]}`" for n, part in enumerate(command[:-1]) if part in _DATA_FLAGS]
    history = (read_json(folder / "trainer_state.json") or {}).get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    losses = [entry["eval_loss"] for entry in entries if isinstance(entry.get("eval_loss"), float)]
    if losses:
        lines.append(f"| masked-token loss on validation (nats) | {losses[-1]:.3f} |")
    packages = ", ".join(f"{package} {version}" for package, version in record.get("packages", {}).items() if version)
    return "\n\n".join(
        [
            "## Pre-training",
            f"Data: {', '.join(data)}." if data else "",
            "\n".join(["| setting | value |", "| --- | --- |", *lines]),
            f"Versions: Python {record.get('python')}, {packages}.",
        ]
    )
