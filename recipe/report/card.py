"""Model cards of checkpoints: metadata with a model-index, scores of every suite, and their pre-training."""

from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from recipe.finetune.columns import COLUMNS, GLUE, METRIC_NAMES, QA, TITLES, columns_of, suite_of
from recipe.finetune.glue.rows import GLUE_HUB_ID
from recipe.finetune.qa.squad import TASKS as SQUADS
from recipe.system.errors import UserError
from recipe.system.hub import require_hub
from recipe.train.model_card import CARD, MARK, may_overwrite, pretraining_section, write_card

TAGS = {GLUE: "glue", QA: "squad"}
NOT_FOR_INFERENCE = ["optimizer*", "scheduler*", "rng_state*", "manifest.json", "training_args.bin"]


def write_cards(frame: pd.DataFrame, cells: pd.DataFrame, tables: dict[str, str]) -> list[Path]:
    """Writes the card of each local checkpoint in `frame` (one row per job, `cells` its means, as in
    recipe.report.scores), and returns the files. `tables` has each suite's own table, whose notes say what its numbers
    are. A README.md that this module didn't write is left alone."""
    written = []
    notes = {
        suite: "\n".join(line for line in table.splitlines() if line.startswith("- "))
        for suite, table in tables.items()
    }
    for name, rows in frame.groupby("checkpoint", sort=False):
        folder = Path(rows["path"].iloc[0])
        file = folder / CARD
        if not (folder / "config.json").is_file() or not may_overwrite(file):
            continue
        if write_card(file, card_of(name, rows, cells.loc[name], notes)):
            written.append(file)
    return written


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
        pretraining_section(folder),
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
