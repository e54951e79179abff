"""Toy GLUE data in the official layout, a toy tokenizer and toy checkpoints, all made in seconds."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from recipe.data.tokenizer import train_tokenizer
from recipe.finetune.glue.tasks import TASKS
from recipe.finetune.suites import SUITES
from recipe.model.checkpoints import commit
from recipe.sweep import sweep
from recipe.sweep.jobs import run_job
from recipe.sweep.plan import Planner, candidates, parse_sweep

torch.set_num_threads(1)  # models of width 16 are not worth a second core, and threads that wait for each other spin

NOUNS = ["cat", "dog", "bird", "fish", "tree", "stone", "river", "cloud"]
VERBS = ["sees", "hears", "likes", "finds", "follows"]

# Header, and a row from (index, first text, second text, class) for each task's train and dev file.
LAYOUTS = {
    "CoLA": (None, lambda n, a, b, y: ["gj04", str(y), "" if y else "*", a]),
    "SST-2": ("sentence label", lambda n, a, b, y: [a, str(y)]),
    "MRPC": ("Quality,#1 ID,#2 ID,#1 String,#2 String", lambda n, a, b, y: [str(y), "7", "8", a, b]),
    "STS-B": (
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        lambda n, a, b, y: [str(n), "g", "f", "2012", "1", "s", "s", a, b, f"{y * 2.5:.3f}"],
    ),
    "QQP": (
        "id qid1 qid2 question1 question2 is_duplicate",
        lambda n, a, b, y: [str(n), "1", "2", a, b, str(y)],
    ),
    "MNLI": (
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
        "sentence1 sentence2 label1 gold_label",
        lambda n, a, b, y: [str(n), *"abcdefg", a, b, "neutral", ("entailment", "neutral", "contradiction")[y]],
    ),
    "QNLI": (
        "index question sentence label",
        lambda n, a, b, y: [str(n), a, b, ("entailment", "not_entailment")[y]],
    ),
    "RTE": (
        "index sentence1 sentence2 label",
        lambda n, a, b, y: [str(n), a, b, ("entailment", "not_entailment")[y]],
    ),
    "WNLI": ("index sentence1 sentence2 label", lambda n, a, b, y: [str(n), a, b, str(y)]),
}
TEST_LAYOUTS = {
    "CoLA": ("index sentence", lambda n, a, b: [str(n), a]),
    "SST-2": ("index sentence", lambda n, a, b: [str(n), a]),
    "MRPC": ("index,#1 ID,#2 ID,#1 String,#2 String", lambda n, a, b: [str(n), "1", "2", a, b]),
    "STS-B": ("index sentence1 sentence2", lambda n, a, b: [str(n), a, b]),
    "QQP": ("id question1 question2", lambda n, a, b: [str(n), a, b]),
    "MNLI": ("index sentence1 sentence2", lambda n, a, b: [str(n), a, b]),
    "QNLI": ("index question sentence", lambda n, a, b: [str(n), a, b]),
    "RTE": ("index sentence1 sentence2", lambda n, a, b: [str(n), a, b]),
    "WNLI": ("index sentence1 sentence2", lambda n, a, b: [str(n), a, b]),
    "AX": ("index sentence1 sentence2", lambda n, a, b: [str(n), a, b]),
}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of 3 to 17 words, one of them with a quote that a reader with quoting on would stumble over."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    texts = []
    for number in range(count):
        clauses = generator.integers(1, 6)
        words = [
            word
            for _ in range(clauses)
            for word in (generator.choice(NOUNS), generator.choice(VERBS), generator.choice(NOUNS))
        ]
        texts.append(('"' if number == 1 else "") + " ".join(words))
    return texts


def columns(header: str) -> list[str]:
    return header.split("," if "," in header else None)


def write_tsv(file: Path, header: str | None, rows: list[list[str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ([columns(header)] if header else []) + rows
    file.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_glue(folder: Path, rows: int = 40, dev: int = 12, tests: bool = False) -> Path:
    """Every task's official files with toy rows, but MNLI's mismatched half. Returns `folder`."""
    for title, (header, line) in LAYOUTS.items():
        classes = 3 if title in ("MNLI", "STS-B") else 2
        halves = {"train": rows, "dev_matched" if title == "MNLI" else "dev": dev}
        for seed, (stem, count) in enumerate(halves.items()):
            first, second = sentences(count, seed), sentences(count, seed + 10)
            made = [line(n, first[n], second[n], n % classes) for n in range(count)]
            write_tsv(folder / title / f"{stem}.tsv", header, made)
    if tests:
        for title, (header, test_line) in TEST_LAYOUTS.items():
            stem = {"MNLI": "test_matched", "AX": "AX"}.get(title, "test")
            first, second = sentences(5, 3), sentences(5, 4)
            write_tsv(folder / title / f"{stem}.tsv", header, [test_line(n, first[n], second[n]) for n in range(5)])
    return folder


@cache
def toy_tokenizer():
    texts = sentences(200, 99)
    return train_tokenizer(lambda: texts, vocab_size=300)


def toy_config(**changes) -> RobertaConfig:
    settings = {
        "vocab_size": 320,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "architectures": ["RobertaForMaskedLM"],
    }
    return RobertaConfig(**settings | changes)


def toy_checkpoint(run: Path, step: int, **changes) -> Path:
    """A complete checkpoint-N of a run of 4 sequences of 16 tokens per step."""
    torch.manual_seed(step)
    staged, final = run / "_staging" / f"checkpoint-{step}", run / f"checkpoint-{step}"
    RobertaForMaskedLM(toy_config(**changes)).save_pretrained(staged)
    toy_tokenizer().save_pretrained(staged)
    history = [{"step": step, "eval_loss": 5.5, "tokens_seen": step * 64}]
    (staged / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    commit(staged, final)
    (staged.parent).rmdir()
    return final


def toy_run(folder: Path, steps: tuple[int, ...] = (10, 20)) -> Path:
    """A run's folder with a checkpoint at each of `steps`."""
    for step in steps:
        toy_checkpoint(folder, step)
    meaning = {
        "global_batch_size": 4,
        "max_seq_length": 16,
        "max_steps": steps[-1],
        "learning_rate": 1e-3,
        "data": "0" * 64,
    }
    command = ["run_mlm.py", "--dataset_name", "toys"]
    (folder / "run.json").write_text(json.dumps({"command": command, "meaning": meaning, "python": "3"}))
    return folder


def record(task="cola", seed=1, value=0.5, step=10, **changes):
    """A job's JSON as recipe.finetune.glue.finetuning writes it; `value` is the task's headline metric."""
    about = TASKS[task]
    sizes = {split: size for split, size in about.sizes.items() if not split.startswith("test")}
    metrics = {split: {about.headline: value, "loss": 1.0} for split in about.dev_splits}
    return {
        "task": task,
        "checkpoint": {"name": f"toy/checkpoint-{step}", "path": "gone", "step": step, "tokens_seen": step * 64,
                       "sha256": "0" * 64},
        "seed": seed,
        "headline": {"metric": about.headline, "split": about.dev_splits[0], "value": value},
        "metrics": metrics,
        "started_from_mnli": None,
        "examples": {s: {"used": n, "official": n, "subset": False} for s, n in sizes.items()},
        "settings": {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
                     "devices": 1, "num_train_epochs": 1, "max_steps": 9},
        "seconds": 1.5,
        "variant": "",
    } | changes  # fmt: skip


class Inline:
    """An engine that does each job where it stands."""

    width = 1

    def __init__(self, *_):
        self.outcomes, self.order = [], []

    @property
    def jobs(self):
        return [outcome.job for outcome in self.outcomes]

    def has_capacity(self):
        return not self.outcomes

    def submit(self, job, since):
        self.order.append((job.task, job.seed))
        self.outcomes.append(run_job(job, since))

    def wait(self, seconds):
        finished, self.outcomes = self.outcomes, []
        return finished

    def close(self):
        pass


def sweep_here(monkeypatch):
    """main(argv) -> (exit code, engine): runs whole sweeps in this process."""
    engines = []
    monkeypatch.setitem(sweep.ENGINES, "processes", lambda *_: engines.append(Inline()) or engines[-1])
    monkeypatch.setattr(sweep, "on_stop_signals", lambda handler: None)

    def main(argv):
        monkeypatch.setattr(sys, "argv", ["recipe.sweep", *argv])
        return sweep.main(), engines[-1] if engines else None

    return main


def prepare_by(prepare, suite: str, monkeypatch) -> None:
    """From now on `prepare` prepares the suite's jobs."""
    monkeypatch.setitem(SUITES, suite, replace(SUITES[suite], prepare=prepare))


def planned(argv) -> list:
    """The jobs of a sweep's command line."""
    arguments, rest = parse_sweep(argv)
    models, _ = candidates(arguments.runs, arguments.newest)
    planner = Planner(arguments, rest, models)
    return [job for model in models for job in planner.jobs_of(model)]


def as_flags(settings: dict) -> list[str]:
    """A command line: True stands alone, None is left out."""
    given = [(key, value) for key, value in settings.items() if value is not None]
    return [part for k, v in given for part in ((f"--{k}",) if v is True else (f"--{k}", str(v)))]
