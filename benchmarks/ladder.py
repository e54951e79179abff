#!/usr/bin/env python3
"""A ladder of small runs: one change at a time, each scored by its loss on held-out text in nats per byte.

    python benchmarks/ladder.py --dataset wiki_books/                                    every rung
    python benchmarks/ladder.py --dataset wiki_books/ --rungs base mask_30 --seeds 1 2   where a difference decides
    python benchmarks/ladder.py --dataset wiki_books/ --table                            what is there by now

Each rung is the one that it stands on with one change (RUNGS), trained by run_mlm.py in a process of its own (one
thread; so many at once as --at_once says) and then evaluated in fp32 on the whole validation text with 15 % of its
tokens hidden the usual way, whatever the rung trained on. A loss a token doesn't compare between tokenizers; times
tokens and divided by the bytes of the text, it does. Run it again and it goes on where it was: what --csv holds by then
is not done again. Rungs see the same number of tokens, unless --steps_for gives another model size as many as cost the
same time (from the speeds that the table shows).
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import ROOT, markdown, publish

sys.path.insert(0, str(ROOT))

from recipe.model.checkpoints import newest_complete, step_of

BASE = {
    "--config_name": "configs/roberta_tiny.json",
    "--tokenizer_name": "train",
    "--vocab_size": 8192,
    "--max_seq_length": 128,
    "--per_device_train_batch_size": 32,
    "--max_steps": 1000,
    "--warmup_steps": 100,
    "--lr_scheduler_type": "linear",
    "--learning_rate": 3e-3,
    "--adam_beta2": 0.98,
    "--adam_epsilon": 1e-6,
    "--weight_decay": 0.01,
    "--dropout": 0,
    "--mlm_probability": 0.15,
}
MODERN = {"--config_name": "configs/modernbert_tiny.json"}
MINI = {"--config_name": "configs/modernbert_mini.json"}
TRIED = {  # with both families
    "lr_1e-3": {"--learning_rate": 1e-3},
    "lr_6e-3": {"--learning_rate": 6e-3},
    "batch_16": {"--per_device_train_batch_size": 16, "--max_steps": 2000, "--warmup_steps": 200},
    "batch_64": {"--per_device_train_batch_size": 64, "--max_steps": 500, "--warmup_steps": 50},
    "length_64": {"--max_seq_length": 64, "--per_device_train_batch_size": 64},
    "mask_30": {"--mlm_probability": 0.3},
}
RUNGS: dict[str, tuple[str | None, dict]] = {  # the rung that it stands on, and what it changes
    "base": (None, {}),
    **{name: ("base", change) for name, change in TRIED.items()},
    "vocab_4096": ("base", {"--vocab_size": 4096}),
    "modernbert": ("base", MODERN),
    "modern": ("modernbert", {"--bf16": True}),  # from here on: the same losses in about half the time (see the table)
    **{f"modern_{name}": ("modern", change) for name, change in TRIED.items()},
    "modern_mask_all": ("modern", {"--mask_replace_prob": 1.0, "--random_replace_prob": 0.0}),
    "modern_dropout_10": ("modern", {"--dropout": 0.1}),
    "modern_cosine": ("modern", {"--lr_scheduler_type": "cosine"}),
    "modern_muon": ("modern", {"--optim": "muon"}),
    "modern_vocab_16384": ("modern", {"--vocab_size": 16384}),
    "both": ("modern_mask_30", TRIED["length_64"]),
    "modern_documents": ("modern_mask_30", {"--document_attention": True}),
    # In about modern_mask_30's CPU time: a causal step predicts three times as many tokens.
    "modern_documents_time": ("modern_mask_30", {"--document_attention": True, "--max_steps": 900}),
    "modern_causal_first": ("modern_mask_30", {"--objective_schedule": "clm:0.75 mlm:0.25", "--max_steps": 450}),
    "modern_hybrid": ("modern_mask_30", {"--objective_schedule": "hybrid:1", "--max_steps": 900}),
    # Sizes, four times as long: the steps are those that take tiny's time.
    "long": ("modern_mask_30", {"--max_steps": 4000, "--warmup_steps": 200}),
    "long_layers_4": ("long", {"--config_overrides": "num_hidden_layers=4", "--max_steps": 2500}),
    "long_mini": ("long", MINI | {"--learning_rate": 2e-3, "--max_steps": 1000}),
}
EVALUATION = {"--mlm_probability": 0.15, "--mask_replace_prob": 0.8, "--random_replace_prob": 0.1}
COLUMNS = ("rung", "seed", "on", "change", "tokens", "cpu_minutes", "tokens_per_cpu_second", "nats_a_token",
           "bytes_a_token", "nats_a_byte")  # fmt: skip


def main() -> None:
    options = parsed()
    found = {(one["rung"], one["seed"]): one for one in published(options.csv)}
    if not options.table:
        asked = [(rung, seed) for seed in options.seeds for rung in options.rungs if (rung, seed) not in found]
        with ThreadPoolExecutor(options.at_once) as pool:
            for done in pool.map(lambda one: climbed(options, *one), asked):
                print(done, file=sys.stderr, flush=True)
    for file in options.work.glob("*/rung.json"):
        one = json.loads(file.read_text())
        found.setdefault((one["rung"], one["seed"]), one)
    rows = sorted(found.values(), key=lambda one: (list(RUNGS).index(one["rung"]), one["seed"]))
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    publish("Small runs, one change at a time", table(rows), rows, options.output)


def published(file: Path | None) -> list[dict]:
    """The rungs of a table that an earlier call wrote."""
    if not file or not file.exists():
        return []
    kinds = dict.fromkeys(("rung", "on", "change"), str) | dict.fromkeys(
        ("seed", "tokens", "tokens_per_cpu_second"), int
    )
    with file.open(newline="") as lines:
        return [{name: kinds.get(name, float)(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with validation text of its own, or 5 %% of it is split off")
    parser.add_argument("--rungs", nargs="+", choices=list(RUNGS), default=list(RUNGS), metavar="RUNG")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps_for", type=json.loads, default={}, help='steps of a rung, as JSON: {"mini": 250}')
    parser.add_argument("--at_once", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--prepared_dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs/ladder"), help="a folder a rung and seed")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--csv", type=Path, help="a line a rung and seed: read first, then written anew")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def flags_of(rung: str) -> dict:
    """The flags of run_mlm.py: BASE, with the changes of the rungs that this one stands on, and then its own."""
    on, change = RUNGS[rung]
    return (flags_of(on) if on else BASE) | change


def climbed(options, rung: str, seed: int) -> dict:
    """Trains and scores a rung, or reads what an earlier call found."""
    folder = options.work / f"{rung}-s{seed}"
    record = folder / "rung.json"
    if record.exists():
        return json.loads(record.read_text())
    data = {"--dataset_name": options.dataset, "--prepared_dir": options.prepared_dir, "--use_cpu": True}
    on, change = RUNGS[rung]
    if rung in options.steps_for:
        steps = options.steps_for[rung]
        change = change | {"--max_steps": steps, "--warmup_steps": max(1, steps // 10)}
    flags = flags_of(rung) | change | data
    saving = {"--output_dir": folder, "--seed": seed, "--save_steps": 500, "--save_total_limit": 1}
    tokens_a_step = flags["--per_device_train_batch_size"] * flags["--max_seq_length"]
    timed = folder / "speed.json"
    if not timed.exists():
        begun = newest_complete(folder)  # by a call that was stopped
        if begun and step_of(begun) == flags["--max_steps"]:  # just before it wrote down the time
            shutil.rmtree(folder)
            begun = None
        seconds = run(["--do_train"], flags | saving | {"--logging_steps": 100}, folder / "training.txt")
        steps = flags["--max_steps"] - (step_of(begun) if begun else 0)
        timed.write_text(json.dumps(steps * tokens_a_step / seconds))
    scored = flags | EVALUATION | {
        "--model_name_or_path": folder,
        "--tokenizer_name": folder,
        "--output_dir": folder / "evaluation",
        "--per_device_eval_batch_size": 64,
    }  # fmt: skip
    for name in ("--config_name", "--config_overrides", "--dropout", "--optim", "--vocab_size", "--bf16"):
        scored.pop(name, None)
    run(["--do_eval"], scored, folder / "evaluation.txt")
    loss = json.loads((folder / "evaluation" / "eval_results.json").read_text())["eval_loss"]
    tokens, speed = flags["--max_steps"] * tokens_a_step, json.loads(timed.read_text())
    size = bytes_a_token(folder, options.dataset)
    found = {
        "rung": rung,
        "seed": seed,
        "on": on or "",
        "change": " ".join(f"{name} {value}" for name, value in change.items()),
        "tokens": tokens,
        "cpu_minutes": round(tokens / speed / 60, 2),
        "tokens_per_cpu_second": round(speed),
        "nats_a_token": round(loss, 4),
        "bytes_a_token": round(size, 4),
        "nats_a_byte": round(loss / size, 5),
    }  # fmt: skip
    record.write_text(json.dumps(found, indent=2) + "\n")
    return found


def run(goals: list[str], flags: dict, said: Path) -> float:
    """Runs run_mlm.py; returns the CPU seconds that it took."""
    said.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "run_mlm.py", *goals, "--disable_tqdm", "true"]
    command += [str(part) for pair in flags.items() for part in pair]
    with said.open("a") as output:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\nended with {os.waitstatus_to_exitcode(status)}: see {said}")
    return used.ru_utime + used.ru_stime


def bytes_a_token(tokenizer: Path, dataset: str) -> float:
    """UTF-8 bytes per token, each document's end token included, of the first 5 M characters of the validation text (of
    the training text, where there is none of its own)."""
    from recipe.data.corpus import open_corpus
    from recipe.data.fertility import MAX_CHARACTERS, fertility
    from recipe.data.tokenizer import load_tokenizer

    corpus, texts, left = open_corpus(dataset), [], MAX_CHARACTERS
    for text in (corpus.validation or corpus.train).texts():
        texts.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    counts = fertility(load_tokenizer(str(tokenizer)), texts)
    return counts.bytes / (counts.tokens + len(texts))


def table(found: list[dict]) -> str:
    """A line a rung, means over its seeds, and how far each is from the same seed of the rung that it stands on."""
    rungs: dict[str, list[dict]] = {}
    for one in found:
        rungs.setdefault(one["rung"], []).append(one)
    loss = {(one["rung"], one["seed"]): one["nats_a_byte"] for one in found}
    lines = []
    for rung, ones in rungs.items():
        apart = [one["nats_a_byte"] - loss[one["on"], one["seed"]] for one in ones if (one["on"], one["seed"]) in loss]
        lines.append([
            rung,
            ones[0]["on"],
            ones[0]["change"] and f"`{ones[0]['change']}`",
            f"{ones[0]['tokens'] / 1e6:.1f}",
            f"{statistics.mean(one['cpu_minutes'] for one in ones):.1f}",
            f"{statistics.mean(one['tokens_per_cpu_second'] for one in ones):,.0f}",
            f"{statistics.mean(one['nats_a_token'] for one in ones):.3f}",
            ", ".join(f"{one['nats_a_byte']:.4f}" for one in ones),
            ", ".join(f"{one:+.4f}" for one in apart),
        ])  # fmt: skip
    header = ["rung", "on", "change", "M tokens", "CPU minutes", "tokens per CPU second", "nats per token",
              "nats per byte, each seed", "to what it stands on"]  # fmt: skip
    return markdown(header, lines)


if __name__ == "__main__":
    main()
