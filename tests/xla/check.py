"""Runs run_mlm.py on torch_xla's CPU device, counts compilations and checks resuming; started by tests/xla/run.sh."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from toy import REPOSITORY, config_settings, toy_documents

STEPS = 16
PROGRAM = """
import json, os
import run_mlm
from recipe.train import build
if os.environ.get("USE_TORCH_XLA") == "0":
    metrics = None
else:
    import torch_xla.debug.metrics as metrics
from recipe.cli.program import run_script

class Counts(build.JsonLog):  # records the device, and the number of compiled graphs after each step
    def on_train_end(self, args, state, control, **kwargs):
        with open(args.output_dir + "/device", "w") as stream:
            stream.write(args.device.type)

    def on_step_end(self, args, state, control, **kwargs):
        data = metrics and (metrics.metric_data("UncachedCompile") or metrics.metric_data("CompileTime"))
        with open(args.output_dir + "/compiled.jsonl", "a") as stream:
            stream.write(json.dumps([state.global_step, data[0] if data else 0]) + "\\n")

build.JsonLog = Counts
run_script(run_mlm.main)
"""


def run(folder: Path, name: str, *more: str, device: str = "xla") -> tuple[list[float], float]:
    """Runs run_mlm.py on `device`, xla or cpu, with the output folder folder/name; returns (losses, seconds).

    With torch_xla installed, --use_cpu alone has no effect: the Trainer still uses the XLA device.
    """
    flags = {
        "--config_name": folder / "roberta.json", "--tokenizer_name": "train", "--vocab_size": 300,
        "--train_file": folder / "corpus.txt", "--prepared_dir": folder / "data", "--output_dir": folder / name,
        "--max_seq_length": 64, "--global_batch_size": 16, "--per_device_train_batch_size": 8, "--max_steps": STEPS,
        "--warmup_steps": 4, "--learning_rate": "3e-3", "--save_steps": STEPS // 2, "--logging_steps": 1,
        "--optim": "adamw_torch", "--max_eval_samples": 8,
    }  # fmt: skip
    words = [str(part) for pair in flags.items() for part in pair]
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"USE_TORCH_XLA": "0"} if device == "cpu" else {})
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--do_train", "--do_eval", *more],
        cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    used = (folder / name / "device").read_text()
    assert used == device, f"{name} ran on {used}, expected {device}: XLA would be compared with itself"
    lines = [json.loads(line) for line in (folder / name / "log.jsonl").open()]
    return [line["loss"] for line in lines if "loss" in line], time.monotonic() - began


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "corpus.txt").write_text("\n\n".join(toy_documents()) + "\n")
    (folder / "roberta.json").write_text(json.dumps(config_settings("roberta")))
    plain, _ = run(folder, "plain", "--use_cpu", "true", device="cpu")
    losses, seconds = run(folder, "xla")
    compiled = [json.loads(line) for line in (folder / "xla" / "compiled.jsonl").open()]
    new = [step for (step, count), (_, before) in zip(compiled, [(0, 0), *compiled], strict=False) if count > before]
    weights = (folder / "xla" / "model.safetensors").read_bytes()

    shutil.copytree(folder / "xla", folder / "resumed")
    shutil.rmtree(folder / "resumed" / f"checkpoint-{STEPS}")
    for name in ("model.safetensors", "train_results.json", "eval_results.json"):
        (folder / "resumed" / name).unlink()
    again, _ = run(folder, "resumed")
    bf16, _ = run(folder, "bf16", "--bf16", "true")
    difference = max(abs(a - b) for a, b in zip(plain, losses, strict=True))

    rows = (
        (f"{STEPS} steps on the XLA device", f"{seconds:.0f} s, loss {losses[0]:.4f} to {losses[-1]:.4f}"),
        ("compared with the same run on the CPU without XLA", f"losses differ by at most {difference:.1e}"),
        ("steps that compiled a graph", ", ".join(map(str, new))),
        ("graphs compiled in total", str(compiled[-1][1])),
        (f"resumed from step {STEPS // 2}: losses", "equal" if again == losses else f"differ: {again}"),
        ("and weights", "same bits" if (folder / "resumed/model.safetensors").read_bytes() == weights else "differ"),
        ("bf16 autocast", f"loss {bf16[0]:.4f} to {bf16[-1]:.4f}"),
    )
    print("| check | result |\n|---|---|")
    for row in rows:
        print("| {} | {} |".format(*row))
    shutil.rmtree(folder)
    assert difference < 1e-4 and again == losses and max(new) <= STEPS // 2 + 3, "a check failed: see the table"


if __name__ == "__main__":
    main()
