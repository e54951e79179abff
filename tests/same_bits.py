"""Tests whether a code change alters results: hashes of the outputs of four short runs, before and after.

    python tests/same_bits.py > before.json                 on the original code; three minutes on two cores
    python tests/same_bits.py --compare before.json         on the changed code: exit code 1 at the first difference

The runs are started from the command line and nothing is imported from this repository, so that this file works before
and after code moves: RoBERTa on two DDP processes with accumulation and a decaying masking rate, BERT with whole-word
masking and an initial stage of short sequences, ModernBERT with span masking and Muon, each with its own tokenizer, and
fine-tuning on SST-2 from the RoBERTa run. The text is docstrings of Python's standard library. Each run gives sha256
hashes of weights, optimizer state and logged losses, and its last loss for human readers.

Hashes are comparable on the same machine, Python and packages only; others are refused with exit code 2. Not covered:
GPUs, DeepSpeed, causal models, question answering, resuming (tests/chaos), corpora other than text files.
"""

import argparse
import ast
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "datasets", "numpy")
CHARACTERS = 400_000  # of English: about 120,000 tokens with a vocabulary of 1,024
STEPS = 24

# Environment variables of pretrain.sh, and flags.
PRETRAINING = {
    "roberta": (
        {"NPROC_PER_NODE": 2, "DROPOUT": ""},
        ["--mlm_probability", "0.3", "--mlm_probability_end", "0.15"],
    ),
    "bert": (
        {},
        ["--whole_word_mask", "true", "--short_seq_length", "32", "--short_seq_share", "0.5"],
    ),
    "modernbert": (
        {},
        ["--span_masking", "true", "--optim", "muon", "--lr_scheduler_type", "cosine"],
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, help="an earlier output to compare with")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    current = environment()
    before = json.loads(options.compare.read_text()) if options.compare else None
    if before and before["environment"] != current:
        print(f"{options.compare} was made with {before['environment']}, this is {current}: create it again here")
        return 2

    found: dict = {"environment": current}
    with tempfile.TemporaryDirectory(prefix="same_bits-") as folder:
        for name, hashes in runs(Path(folder)):
            found[name] = hashes
            for what, value in hashes.items():
                if before and before.get(name, {}).get(what) != value:
                    print(f"{name}: {what} differs: {before.get(name, {}).get(what)} before, {value} now")
                    return 1
            print(f"{name}: {'equal' if before else 'done'}", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 0


def environment() -> dict[str, str]:
    """Versions and hardware that determine the results besides the code."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    processor = torch.backends.cpu.get_cpu_capability()
    return {"machine": f"{platform.machine()} {processor}", "python": platform.python_version()} | versions


def runs(folder: Path) -> Iterator[tuple[str, dict]]:
    """Runs the four commands in `folder` and yields (name, hashes) of each."""
    paragraphs = prose()
    text, glue = folder / "corpus.txt", folder / "glue"
    text.write_text("\n\n".join(paragraphs) + "\n")
    write_sst2(glue / "SST-2", paragraphs)
    for family, (exports, flags) in PRETRAINING.items():
        run = folder / family
        settings = {
            "MODEL": f"configs/{family}_tiny.json", "TOKENIZER": "train", "VOCAB_SIZE": 1024, "DATASET": text,
            "PREPARED_DIR": folder / "data", "OUTPUT_DIR": run, "RECIPE": "demo", "SEQ_LENGTH": 64,
            "GLOBAL_BATCH_SIZE": 32, "MICRO_BATCH_SIZE": 8, "MAX_STEPS": STEPS, "WARMUP_STEPS": 4, "SAVE_STEPS": STEPS,
            "EVAL_STEPS": STEPS // 2, "EVAL_BLOCKS": 64, "LOGGING_STEPS": 1, "REPORT_TO": "none", "DS_CONFIG": "", "NPROC_PER_NODE": 1,
        } | exports  # fmt: skip
        command = ["bash", "pretrain.sh", "--use_cpu", "true", "--bf16", "false", *flags]  # whatever the defaults
        start(command, settings)
        yield family, hashes_of(run)
    score = folder / "sst2"
    command = [
        sys.executable, "run_glue.py", "--model_name_or_path", folder / "roberta" / f"checkpoint-{STEPS}",
        "--task_name", "sst2", "--glue_data", glue, "--prepared_dir", folder / "data", "--output_dir", score,
        "--do_train", "--do_eval", "--num_train_epochs", "2", "--gradient_accumulation_steps", "2",
        "--logging_steps", "1", "--save_strategy", "epoch", "--save_model", "--use_cpu", "true",
    ]  # fmt: skip
    start(command, {})
    yield "sst2", hashes_of(score)


def prose() -> list[str]:
    """Distinct docstrings of the standard library's top-level modules, one per paragraph, CHARACTERS in total."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    found: dict[str, None] = {}
    total = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            text = " ".join((ast.get_docstring(node) or "").split()) if isinstance(node, kinds) else ""
            if len(text) > 200 and text not in found:
                found[text] = None
                total += len(text)
                if total > CHARACTERS:
                    return list(found)
    raise SystemExit(f"found {total:,} characters of docstrings, expected {CHARACTERS:,}")


def write_sst2(folder: Path, paragraphs: list[str]) -> None:
    """A task in the layout of SST-2: whether a text contains the word "return"."""
    folder.mkdir(parents=True)
    for name, rows in (("train", paragraphs[:96]), ("dev", paragraphs[96:144])):
        with (folder / f"{name}.tsv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, escapechar="\\")
            writer.writerow(["sentence", "label"])
            writer.writerows([row[:160].replace("\\", " "), int("return" in row[:160].lower())] for row in rows)


def start(command: list, settings: dict) -> None:
    """Runs `command` in the repository on the CPU, with a clean environment and the given `settings`."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH") if name in os.environ
    }
    own = {
        "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "true",
    }  # fmt: skip
    given = {name: str(value) for name, value in settings.items()}
    done = subprocess.run(
        [str(part) for part in command], cwd=REPOSITORY, env=kept | own | given, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )


def hashes_of(run: Path) -> dict:
    """Hashes of a run's final weights, its newest checkpoint's optimizer state and its logged losses."""
    checkpoint = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    log = run / "log.jsonl"
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    else:
        rows = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    columns = ("step", "loss", "grad_norm", "learning_rate", "eval_loss")
    losses = [row for row in ({name: row[name] for name in columns if name in row} for row in rows) if len(row) > 1]
    assert any("loss" in row for row in losses), f"no loss was logged in {run}"
    return {
        "weights": digest(load_file(run / "model.safetensors")),
        "optimizer": digest(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)),
        "losses": digest(losses),
        "last loss": next(row["loss"] for row in reversed(losses) if "loss" in row),
    }


def digest(value) -> str:
    """sha256 of nested dicts and lists of tensors and plain values, including keys, shapes and dtypes."""
    total = hashlib.sha256()
    for part in parts(value):
        total.update(part)
    return total.hexdigest()


def parts(value) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}\0".encode()
        yield value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield f"{key!r}\0".encode()
            yield from parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)}\0".encode()
        for item in value:
            yield from parts(item)
    else:
        yield f"{value!r}\0".encode()


if __name__ == "__main__":
    sys.exit(main())
