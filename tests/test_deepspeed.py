"""ZeRO-2 BF16 with the repository's own ds_config, on one CPU process: it trains, saves, resumes, and stays plain."""

import json
import os
import subprocess
import sys

import pytest
import torch
from toy import REPOSITORY, config_settings
from transformers import AutoModelForMaskedLM

pytestmark = pytest.mark.slow


def run(folder, text, config, steps_to_stop=None, **settings):
    flags = {
        "--config_name": config, "--tokenizer_name": "train", "--vocab_size": 300, "--train_file": text,
        "--prepared_dir": folder / "data", "--output_dir": folder / "run", "--max_seq_length": 32,
        "--per_device_train_batch_size": 4, "--global_batch_size": 8, "--max_steps": 6, "--save_steps": 3,
        "--logging_steps": 1, "--learning_rate": "1e-2", "--warmup_steps": 4, "--use_cpu": "true", "--bf16": "true",
        "--disable_tqdm": "true", "--deepspeed": REPOSITORY / "ds_config" / "zero2_bf16.json",
    } | settings  # fmt: skip
    words = [str(part) for pair in flags.items() for part in pair]
    # The shared-memory op would be compiled at the first start, for a minute.
    script = (
        "import sys, deepspeed.ops; deepspeed.ops.__compatible_ops__['deepspeed_shm_comm'] = False\n"
        f"sys.argv = ['run_mlm.py', *{[*words, '--do_train', '--do_eval']!r}]\n"
        "import run_mlm; from recipe.errors import run_script; run_script(run_mlm.main)"
    )
    program = folder / "program.py"
    program.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(program)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").open()]
    return [(line["step"], line["loss"], line["learning_rate"], line["grad_norm"]) for line in lines if "loss" in line]


def test_zero2_trains_and_resumes_as_if_it_had_not_stopped(tmp_path, text_file):
    config = tmp_path / "roberta.json"
    config.write_text(json.dumps(config_settings("roberta", 400)))
    whole = run(tmp_path, text_file, config)
    # The values are those of TrainingArguments: linear warm-up over four steps, then linear decay.
    assert [lr for _, _, lr, _ in whole] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01, 0.005])
    saved = tmp_path / "run" / "checkpoint-6"
    model = AutoModelForMaskedLM.from_pretrained(saved)
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[0, 5, 6, 2]])).logits).all()

    import shutil

    for name in ("checkpoint-6", "all_results.json"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(tmp_path, text_file, config) == whole
