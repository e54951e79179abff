"""The model card of a checkpoint: README.md with its scores as the hub reads them, and what the pre-training was."""

import os
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from recipe.checkpoints import step_of
from recipe.columns import COLUMNS, GLUE, METRIC_NAMES, QA, TITLES, columns_of, suite_of
from recipe.errors import UserError
from recipe.files import read_json, write_whole
from recipe.glue_rows import GLUE_HUB_ID
from recipe.hub import require_hub
from recipe.run import read_record
from recipe.secrets import redact, redact_all
from recipe.squad import TASKS as SQUADS

CARD = "README.md"
TAGS = {GLUE: "glue", QA: "squad"}
MARK = "<!-- written by python -m recipe.scores: it will be overwritten -->"
RUN_MARK = "<!-- written at the end of the pre-training: it will be overwritten -->"
NOT_FOR_INFERENCE = ["optimizer*", "scheduler*", "rng_state*", "manifest.json", "training_args.bin"]
# The settings of run.json that say what a pre-training was, in words.
SETTINGS = {
    "max_seq_length": "tokens a sequence",
    "global_batch_size": "sequences a step",
    "learning_rate": "peak learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps",
    "max_steps": "planned steps",
    "mlm_probability": "share of tokens predicted",
    "whole_word_mask": "whole words masked",
    "weight_decay": "weight decay",
    "optim": "optimizer",
    "seed": "seed",
    "data": "sha256 of the prepared data",
}
RUN_FIGURES = ("eval_loss", "eval_perplexity", "eval_masked_accuracy", "eval_accuracy", "eval_unigram_loss")
_DATA_FLAGS = ("--dataset_name", "--dataset_config_name", "--train_file")


def write_cards(frame: pd.DataFrame, cells: pd.DataFrame, tables: dict[str, str]) -> list[Path]:
    """Writes the card of each local checkpoint in `frame` (one row a job, `cells` its means, as in recipe.scores), and
    returns the files. `tables` has each suite's own table, whose notes say what its numbers are. A README.md that this
    room didn't write is left alone."""
    written = []
    notes = {
        suite: "\n".join(line for line in table.splitlines() if line.startswith("- "))
        for suite, table in tables.items()
    }
    for name, rows in frame.groupby("checkpoint", sort=False):
        folder = Path(rows["path"].iloc[0])
        file = folder / CARD
        if not (folder / "config.json").is_file() or not _is_ours(file):
            continue
        if _write(file, card_of(name, rows, cells.loc[name], notes)):
            written.append(file)
    return written


def write_run_card(run: Path, causal: bool, metrics: dict[str, float] | None = None) -> None:
    """Writes the card of a pre-training into its folder, `metrics` those of its evaluation: what it was told, what came
    of it, and nothing that needs a network. A card that somebody else wrote, or that has scores, is left alone."""
    file = run / CARD
    if not _is_ours(file, RUN_MARK):
        return
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if causal else "fill-mask",
        tags=["generated_from_trainer"],
        model_name=run.resolve().name,
    )
    figures = [f"| {name} | {value:.4g} |" for name, value in (metrics or {}).items() if name in RUN_FIGURES]
    table = "\n".join(["## Evaluation", "", "| figure | value |", "| --- | --- |", *figures]) if figures else ""
    parts = [f"---\n{metadata.to_yaml()}\n---\n{RUN_MARK}", f"# {run.resolve().name}", table, _pretraining(run)]
    _write(file, "\n\n".join(part for part in parts if part) + "\n")


def _is_ours(file: Path, *marks: str) -> bool:
    """Whether a card isn't there, or is one of `marks` (by default all) that may be written anew."""
    if not os.path.lexists(file):
        return True
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a folder, or a link that leads nowhere
        return False
    return any(mark in text for mark in marks or (MARK, RUN_MARK))


def _write(file: Path, text: str) -> bool:
    """Writes a card whole; False on a read-only disk, whose checkpoints have their scores in the sweep's folder."""
    try:
        write_whole(file, redact(text).encode())
    except OSError:
        return False
    return True


def card_of(name: str, rows: pd.DataFrame, cells: pd.Series, notes: dict[str, str]) -> str:
    """The text of a card: metadata with a model-index, then scores, then pre-training."""
    folder = Path(rows["path"].iloc[0])
    present = [column for column in COLUMNS if cells[column, "seeds"]]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=[tag for suite, tag in TAGS.items() if any(column in present for column in columns_of(suite))],
        model_name=name.replace("/", "-"),
        eval_results=[_result(column, cells[column], rows) for column in present],
    )
    step, tokens = rows["step"].iloc[0], rows["tokens_seen"].iloc[0]
    seen = "" if pd.isna(tokens) else f" and {int(tokens):,} tokens"
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n{MARK}",
        f"# {name}",
        "" if pd.isna(step) else f"A checkpoint of a pre-training run, after {int(step):,} steps{seen}.",
        *(_section(suite, cells, notes[suite]) for suite in notes),
        _pretraining(folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(suite: str, cells: pd.Series, notes: str) -> str:
    """A suite's part of a card, empty where the checkpoint has no score of it."""
    present = [column for column in columns_of(suite) if cells[column, "seeds"]]
    scores = [f"| {column} | {METRIC_NAMES[COLUMNS[column][2]]} | {_value(cells[column])} |" for column in present]
    table = "\n".join(["| task | metric | score |", "| --- | --- | --- |", *scores])
    return f"## {TITLES[suite]}\n\n{table}\n\n{notes}" if present else ""


def _result(column: str, cell: pd.Series, rows: pd.DataFrame) -> EvalResult:
    task, split, metric = COLUMNS[column]
    of_task = rows[rows["task"] == task]
    subset = bool(of_task["train_is_subset"].any() or of_task["dev_is_subset"].any())
    part = " (part of the examples)" if subset else ""
    if suite_of(task) == QA:
        about = {"task_type": "question-answering", "dataset_type": SQUADS[task].hub_id}
        title = column.rsplit(" ", 1)[0]
    else:
        about = {"task_type": "text-classification", "dataset_type": GLUE_HUB_ID, "dataset_config": task}
        title = f"GLUE {column}"
    return EvalResult(
        **about,
        task_name=f"{title}, after fine-tuning",
        dataset_name=title + part,
        dataset_split=split,
        metric_type=metric,
        metric_name=METRIC_NAMES[metric],
        metric_value=round(float(cell["mean"]), 2),
        metric_args={"seeds": sorted(map(int, of_task["seed"].unique())), "unit": "percent, mean over seeds"},
    )


def _value(cell: pd.Series) -> str:
    spread = "" if cell["seeds"] < 2 else f" ± {cell['std']:.1f} ({cell['seeds']:.0f} seeds)"
    return f"{cell['mean']:.1f}{spread}"


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to; a model of another name is its own."""
    return checkpoint.resolve().parent if step_of(checkpoint) >= 0 else checkpoint.resolve()


def _pretraining(folder: Path) -> str:
    """What run.json and trainer_state.json know of the pre-training, empty where there are none."""
    if not (record := redact_all(read_record(run_folder(folder)))):
        return ""
    meaning = record.get("meaning", {})
    lines = [f"| {words} | {meaning[key]} |" for key, words in SETTINGS.items() if meaning.get(key) is not None]
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


def push(frame: pd.DataFrame, hub_model_id: str) -> None:
    """Uploads each local checkpoint, without optimizer and generator states, as a branch of `hub_model_id`.

    Raises UserError without a way to the hub.
    """
    require_hub(f"model {hub_model_id}", "nothing, and leave --push_to_hub out")
    api = HfApi()
    try:
        api.create_repo(hub_model_id, exist_ok=True)
        for path in dict.fromkeys(frame["path"]):
            folder = Path(path)
            if (folder / "config.json").is_file():
                api.create_branch(hub_model_id, branch=folder.name, exist_ok=True)
                api.upload_folder(
                    repo_id=hub_model_id, folder_path=folder, revision=folder.name, ignore_patterns=NOT_FOR_INFERENCE
                )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"cannot push to {hub_model_id}: {str(error).splitlines()[0]}: see hf auth login") from error
