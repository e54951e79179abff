"""Two sweeps follow a pre-training that runs: minimal pairs soon after each checkpoint, GLUE later, both in its W&B run."""

import subprocess
import sys
import time

import pytest
from toy import REPOSITORY, pretrain_command
from toy_scores import history_of, read_wandb

SHARED = REPOSITORY.parent / "shared" / "data"
STEPS = [150, 300, 450]
SOON = 120  # seconds


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (SHARED / "blimp").is_dir(), reason="there are no minimal pairs in ../shared/data")
def test_scores_follow_a_pre_training_while_it_runs(tmp_path):
    run = tmp_path / "run"
    train, settings = pretrain_command(tmp_path, "run", MODEL=REPOSITORY / "configs" / "roberta_tiny.json",
                                       MAX_STEPS=STEPS[-1], SAVE_STEPS=STEPS[0], EVAL_STEPS=STEPS[0],
                                       NPROC_PER_NODE=1, REPORT_TO="wandb", WANDB_MODE="offline",
                                       WANDB_DIR=tmp_path, PYTHON=sys.executable)  # fmt: skip
    watch = settings | {"RUN": str(run), "WATCH": "1", "MODEL": "", "TOKENIZER": "", "OUTPUT_DIR": ""}
    of_suite = {
        "blimp": ({"TASKS": "blimp", "BLIMP_DATA": str(SHARED / "blimp")}, ["--max_eval_samples", "67"]),
        "glue": (
            {"TASKS": "rte", "GLUE_DATA": str(SHARED / "glue"), "EPOCHS": "1"},
            ["--max_train_samples", "64", "--max_eval_samples", "64", "--max_seq_length", "32"],
        ),
    }
    running = [
        subprocess.Popen(["bash", str(REPOSITORY / "finetune_glue.sh"), *flags], env=watch | variables, cwd=tmp_path,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for variables, flags in of_suite.values()
    ]  # fmt: skip
    trained = subprocess.run(train, env=settings, cwd=tmp_path, capture_output=True, text=True)
    ended = time.time()
    assert trained.returncode == 0, trained.stdout + trained.stderr
    for process in running:
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
    for step in STEPS:
        saved = (run / f"checkpoint-{step}" / "manifest.json").stat().st_mtime
        (record,) = (run / "blimp" / "jobs" / f"run-checkpoint-{step}").glob("*.json")
        assert record.stat().st_mtime - saved < SOON
    first = min(file.stat().st_mtime for file in (run / "blimp" / "jobs").rglob("*.json"))
    assert first < ended, "no score was there before the pre-training was over"
    rows = [row for file in tmp_path.rglob("*.wandb") for row in history_of(read_wandb(file))]
    for score in ("blimp/accuracy", "glue/rte"):
        points = {int(row["train/global_step"]): row for row in rows if score in row}
        assert sorted(points) == STEPS
        assert all(0 <= point[score] <= 100 for point in points.values())
        assert [points[step]["tokens_seen"] for step in STEPS] == [step * 16 * 32 for step in STEPS]
    assert any("train/loss" in row for row in rows)
