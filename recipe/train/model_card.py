"""The model cards of a pre-training: one for each checkpoint and one for the run, from their own files.

A card has the metadata of the Hugging Face hub, what the model is, code that uses it, how it was trained, and its
evaluation; recipe.report.card adds the scores of fine-tuning. It needs no network. A card without the line that marks
it as written here belongs to the user and is never changed.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from recipe.data.corpus import DOCSTRINGS
from recipe.model.checkpoints import checkpoints, step_of
from recipe.model.config import first_position, is_causal, load_config
from recipe.model.metrics import METRICS, PREFIXES
from recipe.system.errors import UserError
from recipe.system.files import read_json, write_atomically
from recipe.system.hub import is_local
from recipe.system.secrets import redact, redact_all
from recipe.system.units import count
from recipe.train.run_record import PLAN, read_record
from recipe.train.schedules import UNLIMITED_STEPS

CARD = "README.md"
AVERAGE = "average.json"  # in a checkpoint of averaged weights: what its card says of them
MARK = "<!-- Written with the scores, and overwritten with them. To keep words of your own here, delete this line. -->"
RUN_MARK = "<!-- Written by the pre-training, and overwritten. To keep words of your own here, delete this line. -->"
FORMER_MARKS = (  # of earlier versions
    "<!-- written by python -m recipe.report.scores: it will be overwritten -->",
    "<!-- written by python -m recipe.scores: it will be overwritten -->",
    "<!-- written at the end of the pre-training: it will be overwritten -->",
)
FAMILIES = {"roberta": "RoBERTa", "bert": "BERT", "modernbert": "ModernBERT"}  # as their papers write them
METRIC_NAMES = {
    "eval_loss": "loss in nats per predicted token",
    "eval_perplexity": "perplexity",
    "eval_unigram_loss": "loss of the unigram baseline",
    **{f"eval_{prefix}{name}": f"{prefix}{name}".replace("_", " ") for name in METRICS for prefix in PREFIXES},
}
BY_SOURCE = "eval_loss_"  # begins the metrics of each source of a mixture
_DATA_FLAGS = ("--dataset_name", "--dataset_config_name", "--train_file")


@dataclass
class Scores:
    """What fine-tuning adds to a card: a title, tags and results for the metadata, and sections of text."""

    title: str
    tags: list[str] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)


def write_run_cards(run: Path, metrics: dict[str, float] | None = None) -> None:
    """Writes the card of a run with `metrics`, those of its last evaluation, and of its checkpoints without one."""
    write_pretraining_card(run, metrics)
    for folder in checkpoints(run):
        if not os.path.lexists(folder / CARD):
            write_pretraining_card(folder)


def write_pretraining_card(folder: Path, metrics: dict[str, float] | None = None) -> None:
    """Writes the card of a checkpoint or of a run's final model, unless a user wrote one or it has scores. `metrics`
    are those of its evaluation; by default what trainer_state.json has of its last step."""
    if may_overwrite(folder / CARD, RUN_MARK, FORMER_MARKS[-1]):
        write_card(folder / CARD, card_of(folder, metrics))


def card_of(folder: Path, metrics: dict[str, float] | None = None, scores: Scores | None = None) -> str:
    """The text of a card. `folder` is a checkpoint's, a run's, or, with `scores` alone, that of any model."""
    run = run_folder(folder)
    name = scores.title if scores else _title(folder)
    record, plan = redact_all(read_record(run)), (read_json(run / PLAN) or {}).get("planned", {})
    try:
        config = load_config(str(folder))
    except UserError:  # of a family that can be fine-tuned, but not pre-trained here
        config = None
    state = read_json(folder / "trainer_state.json") or {}
    metrics = _last_evaluation(state) if metrics is None else metrics
    shown = {METRIC_NAMES[key]: value for key, value in metrics.items() if key in METRIC_NAMES}
    shown |= {f"loss on {source}": loss for source, loss in losses_by_source(metrics).items()}
    results = (_pretraining_results(shown, record) if record else []) + (scores.results if scores else [])
    settings = record.get("settings", {})
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if config and is_causal(config) else "fill-mask",
        tags=list(dict.fromkeys([*(["generated_from_trainer"] if record else []), *(scores.tags if scores else [])])),
        model_name=name.replace("/", "-"),
        eval_results=results or None,
        license=settings.get("license") or None,
        language=settings.get("language") or None,
        datasets=_hub_datasets(record) or None,
    )
    parts = [
        MARK if scores else RUN_MARK,
        f"# {name}",
        _summary(config, record, plan, state, folder),
        _use(folder, config) if config else "",
        *(scores.sections if scores else []),
        _table("## Evaluation on the validation text", {title: f"{value:.4g}" for title, value in shown.items()}),
        _training(record, plan, state),
    ]
    text = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}\n"))


def may_overwrite(file: Path, *marks: str) -> bool:
    """Whether a card may be written: there is none, or one with one of `marks` (by default any), which this project
    wrote."""
    if not os.path.lexists(file):
        return True
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a folder, or a dangling link
        return False
    return any(mark in text for mark in marks or (MARK, RUN_MARK, *FORMER_MARKS))


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


def _title(folder: Path) -> str:
    run = run_folder(folder)
    return run.name if run == folder.resolve() else f"{run.name}/{folder.name}"


def _last_evaluation(state: dict) -> dict[str, float]:
    """The metrics of the last step that trainer_state.json has an evaluation of."""
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    found = [entry for entry in entries if isinstance(entry.get("eval_loss"), float)]
    return found[-1] if found else {}


def losses_by_source(metrics: dict) -> dict[str, float]:
    """The evaluation losses on the sources of a mixture, by their short names."""
    return {name.removeprefix(BY_SOURCE): value for name, value in metrics.items() if name.startswith(BY_SOURCE)}


def _phase_value(value: object) -> str:
    if isinstance(value, dict):  # a mixture
        return " ".join(f"{_public(source)}={weight:g}" for source, weight in value.items())
    return " to ".join(f"{end:g}" for end in value) if isinstance(value, list) else str(value)


def _hub_datasets(record: dict) -> list[str]:
    """The corpus, or the sources of its mixture, as far as they are datasets of the hub."""
    command = record.get("command", [])
    named = [command[n + 1] for n, part in enumerate(command[:-1]) if part == "--dataset_name"]
    names = list(record.get("meaning", {}).get("mixture") or named)
    return [name for name in names if name != DOCSTRINGS and "://" not in name and not is_local(name)]


def _public(source: str) -> str:
    """The name of a corpus, without the folders of this machine."""
    return Path(source).name if "://" not in source and is_local(source) else source


def _pretraining_results(metrics: dict[str, float], record: dict) -> list[EvalResult]:
    task = "text-generation" if record.get("meaning", {}).get("objective") == "clm" else "fill-mask"
    return [
        EvalResult(
            task_type=task,
            dataset_type="validation",
            dataset_name="validation split of the training corpus",
            metric_type=title.replace(" ", "_"),
            metric_name=title,
            metric_value=round(value, 4),
        )
        for title, value in metrics.items()
    ]


def _summary(config: PreTrainedConfig | None, record: dict, plan: dict, state: dict, folder: Path) -> str:
    """A sentence on what the model is, and one on where its training stood."""
    found = []
    if config:
        family = FAMILIES.get(config.model_type, config.model_type)
        layers = f"{config.num_hidden_layers} layer{'s' * (config.num_hidden_layers != 1)}"
        shape = f"{layers} of width {config.hidden_size}, {config.num_attention_heads} heads"
        size = ""
        if plan.get("parameters"):
            table = count(plan["embedding_parameters"])
            size = f", {count(plan['parameters'])} parameters, of them {table} token embeddings"
        kind = "causal language model" if is_causal(config) else "encoder"
        found.append(f"A {family} {kind} with {shape}{size}, a vocabulary of {config.vocab_size:,} tokens.")
    if record:
        objective = (
            "predicting the next token" if record["meaning"].get("objective") == "clm" else "masked language modelling"
        )
        found.append(f"It was pre-trained by {objective}.")
    if average := read_json(folder / AVERAGE):
        found.append(str(average.get("sentence", "")))
    if step_of(folder) >= 0:
        tokens = _tokens_seen(state)
        seen = f" and {tokens:,} tokens" if tokens else ""
        found.append(f"This is the checkpoint after {step_of(folder):,} steps{seen}.")
    length = record.get("meaning", {}).get("max_seq_length")
    if length and config:
        found.append(
            f"It was trained on sequences of {length} tokens, and `model_max_length` of its tokenizer is {length}: "
            "longer ones are out of what it has seen."
        )
    return " ".join(found)


def _tokens_seen(state: dict) -> int:
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    seen = [entry["tokens_seen"] for entry in entries if isinstance(entry.get("tokens_seen"), int | float)]
    return int(max(seen, default=0))


def _use(folder: Path, config: PreTrainedConfig) -> str:
    """Code that uses the model, run from the folder where the training was started."""
    place = os.path.relpath(folder.resolve())
    name = folder.resolve().name if place.startswith("..") else place
    if is_causal(config):
        positions = ""
        if first := first_position(config):
            positions = f"\n# Positions of this family start at {first}: pass position_ids to generate()."
        code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}"){positions}"""
    else:
        mask = (read_json(folder / "tokenizer_config.json") or {}).get("mask_token") or "<mask>"
        mask = mask.get("content", "<mask>") if isinstance(mask, dict) else mask
        code = f"""from transformers import pipeline

fill = pipeline("fill-mask", model="{name}")
print(fill("The capital of France is {mask}.")[0])"""
    return f"## Use\n\nWith the model's folder, or its name on the hub, in place of `{name}`:\n\n```python\n{code}\n```"


def _table(title: str, rows: dict[str, object], head: tuple[str, str] = ("metric", "value")) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([title, "", f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines]) if rows else ""


def _training(record: dict, plan: dict, state: dict) -> str:
    """How the model was trained, in the numbers that people compare; "" without a run.json."""
    if not record:
        return ""
    meaning, settings, command = record.get("meaning", {}), record.get("settings", {}), record.get("command", [])
    length, batch, steps = meaning.get("max_seq_length"), meaning.get("global_batch_size"), meaning.get("max_steps")
    done, tokens = state.get("global_step"), _tokens_seen(state)
    data = [f"`{_public(command[n + 1])}`" for n, part in enumerate(command[:-1]) if part in _DATA_FLAGS]
    if mixture := meaning.get("mixture"):
        data = [f"`{_public(source)}` (weight {weight:g})" for source, weight in mixture.items()]
    corpus = plan.get("training_tokens")
    rows: dict[str, object] = {}
    if data:
        rows["data"] = ", ".join(data) + (f", {corpus:,} training tokens" if corpus else "")
    if done:
        rows["steps"] = f"{done:,}" + (f" of {steps:,}" if steps and steps != UNLIMITED_STEPS else "")
    if meaning.get("max_hours"):
        rows["planned time"] = f"{meaning['max_hours']:g} hours"
    if batch and length:
        rows["sequences per step"] = f"{batch:,}"
        rows["tokens per sequence"] = f"{length:,}"
        rows["tokens per step"] = f"{batch * length:,}"
    if tokens:
        rows["tokens seen"] = f"{tokens:,}" + (f" ({tokens / corpus:.2g} epochs)" if corpus else "")
    if meaning.get("mlm_probability") is not None:
        words = ", whole words" if meaning.get("whole_word_mask") else ", spans" if meaning.get("span_masking") else ""
        rows["masking rate"] = f"{meaning['mlm_probability']:.0%}{words}"
    rows |= {
        title: f"{meaning[key]:g}" if isinstance(meaning[key], float) else meaning[key]
        for key, title in (
            ("learning_rate", "peak learning rate"), ("lr_scheduler_type", "schedule"), ("warmup_steps", "warm-up"),
            ("optim", "optimizer"), ("adam_beta1", "beta 1"), ("adam_beta2", "beta 2"),
            ("weight_decay", "weight decay"), ("max_grad_norm", "gradient clipping"), ("seed", "seed"),
        )
        if meaning.get(key) is not None
    }  # fmt: skip
    if "warm-up" in rows:
        rows["warm-up"] = f"{rows['warm-up']}" + (" steps" if float(meaning["warmup_steps"]) >= 1 else " of the steps")
    rows["precision"] = "bf16" if meaning.get("bf16") else "fp16" if meaning.get("fp16") else "fp32"
    if plan.get("processes"):
        device = "CPU processes" if settings.get("use_cpu") else "devices"
        rows["hardware"] = f"{plan['processes']} {device}, {record.get('machine')}"
    if plan.get("flops"):
        rows["planned compute"] = f"{plan['flops']:.1e} FLOP"
    for number, phase in enumerate(meaning.get("phases") or [], 1):
        about = ", ".join(
            f"{key} {_phase_value(value)}" for key, value in phase.items() if key not in ("first", "last")
        )
        rows[f"phase {number}"] = f"steps {phase['first'] + 1:,} to {phase['last']:,}: {about}"
    if isinstance(found := meaning.get("data"), str):
        rows["sha256 of the prepared data"] = found
    else:
        rows |= {f"sha256 of the prepared {_public(source)}": digest for source, digest in (found or {}).items()}
    packages = ", ".join(f"{package} {version}" for package, version in record.get("packages", {}).items() if version)
    versions = f"Versions: Python {record.get('python')}, {packages}."
    return f"{_table('## Pre-training', rows, ('setting', 'value'))}\n\n{versions}"
