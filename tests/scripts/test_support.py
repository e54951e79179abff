"""What is supported: each family with each objective, engine and device trains, stops and resumes to the same bits.

The marker `covers` of each case names its cell of docs/support.md, which tests/helpers/support_page.py writes.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from toy import REPOSITORY, config_settings, toy_documents

import run_clm
import run_mlm

STEPS, KEPT = 4, 2
OTHERS = ("distilbert", "electra", "deberta-v2", "xlm-roberta", "camembert")  # tested with one objective
PROGRAMS = {"run_mlm.py": run_mlm, "run_clm.py": run_clm}
OBJECTIVES = {
    "masked tokens": ("run_mlm.py",),
    "masked words": ("run_mlm.py", "--whole_word_mask", "true"),
    "masked spans": ("run_mlm.py", "--span_masking", "true"),
    "next token": ("run_clm.py",),
}
ENGINES = {
    "one process": (),
    "DDP": (),
    "ZeRO-1": ("--deepspeed", "ds_config/zero1_bf16.json"),
    "ZeRO-2": ("--deepspeed", "ds_config/zero2_bf16.json"),
    "ZeRO-3": ("--deepspeed", "ds_config/zero3_bf16.json"),
}


def case(family: str, objective: str, engine: str, device: str):
    """A case with the marks of its cell."""
    marks = [pytest.mark.covers(family, objective, engine, device), pytest.mark.timeout(900)]
    if engine != "one process" or device != "CPU":
        marks.append(pytest.mark.slow)
    if device == "GPU":
        needed = 1 if engine == "one process" else 2
        reason = f"there are {torch.cuda.device_count()} GPUs, {needed} are needed"
        marks.append(pytest.mark.skipif(torch.cuda.device_count() < needed, reason=reason))
    return pytest.param(family, objective, engine, device, marks=marks, id=f"{family}-{objective}-{engine}-{device}")


CASES = [
    case(family, objective, engine, device)
    for device in ("CPU", "GPU")
    for engine in ENGINES
    for objective in OBJECTIVES
    for family in ("roberta", "bert", "modernbert", *(OTHERS if objective == "masked tokens" else ()))
]


def rewind(run) -> None:
    """Leaves what a run has that is killed between step KEPT and its next checkpoint."""
    for file in run.iterdir():
        if file.name.startswith("checkpoint-") and int(file.name.partition("-")[2]) > KEPT:
            shutil.rmtree(file)
        elif file.name in ("model.safetensors", "eval_results.json", "train_results.json", "all_results.json"):
            file.unlink()


def result_of(run) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """({step: loss}, the final weights)."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}, load_file(run / "model.safetensors")


@pytest.mark.parametrize(("family", "objective", "engine", "device"), CASES)
def test_it_trains_stops_and_resumes(request, tmp_path, family, objective, engine, device):
    script, *flags = OBJECTIVES[objective]
    flags += ["--global_batch_size", "8", "--per_device_train_batch_size", "4", "--dropout", "0.1"]
    flags += ["--max_steps", str(STEPS), "--save_steps", str(KEPT), *ENGINES[engine]]
    if engine == "one process" and device == "CPU":
        run = request.getfixturevalue("run")

        def train():
            assert run(*flags, program=PROGRAMS[script], family=family)[0] == 0
    else:
        (tmp_path / "text.txt").write_text("\n\n".join(toy_documents(220)))
        (tmp_path / "config.json").write_text(json.dumps(config_settings(family, 400)))
        launcher = ("-m", "recipe.launch", "--standalone", "--nproc_per_node", "2") if engine != "one process" else ()
        command = [
            sys.executable, *launcher, script, "--config_name", tmp_path / "config.json", "--tokenizer_name", "train",
            "--vocab_size", "300", "--train_file", tmp_path / "text.txt", "--prepared_dir", tmp_path / "data",
            "--max_seq_length", "32", "--logging_steps", "1", "--learning_rate", "1e-2", "--do_train", "--do_eval",
            *flags, *(["--bf16"] if "--deepspeed" in ENGINES[engine] else []),
            *(["--use_cpu", "true"] if device == "CPU" else []), "--output_dir", tmp_path / "run",
        ]  # fmt: skip

        def train():
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    train()
    losses, weights = result_of(tmp_path / "run")
    rewind(tmp_path / "run")
    train()
    resumed_losses, resumed_weights = result_of(tmp_path / "run")
    assert resumed_losses == losses and len(losses) == STEPS
    assert weights.keys() == resumed_weights.keys()
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
