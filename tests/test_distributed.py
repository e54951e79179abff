"""Law 1 across processes: two of them compute what one computes."""

import json
import os
import subprocess
import sys

import pytest
from test_trainer import Recorder, make_trainer
from toy import REPOSITORY

from recipe.checkpoints import checkpoints, damage


def test_two_processes_take_the_steps_of_one(tmp_path, bpe, documents):
    recorder = Recorder()
    alone = make_trainer(tmp_path / "one", bpe, documents, micro=32, callbacks=[recorder])
    alone.train()
    expected = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
    metrics = alone.evaluate()

    folder = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(REPOSITORY / "tests" / "distributed_step.py"), str(folder), "8", "2"]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]

    found = json.loads((folder / "found.json").read_text())
    assert len(found["steps"]) == 6
    for (loss, norm), (one_loss, one_norm) in zip(found["steps"], expected, strict=True):
        assert loss == pytest.approx(one_loss, abs=1e-5)
        assert norm == pytest.approx(one_norm, abs=1e-5)
    assert found["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-5)
    assert found["tokens"] == metrics["eval_masked_tokens"]  # no block twice, none left out
    assert len(set(found["draws"])) == 2  # dropout differs between ranks
    assert [damage(checkpoint) for checkpoint in checkpoints(folder)] == [None, None, None]

    # One process goes on from what two saved: the same data, the same schedule (dropout is off).
    recorder = Recorder()
    resumed = make_trainer(folder, bpe, documents, micro=16, accumulation=2, callbacks=[recorder])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    continued = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
    assert continued == [pytest.approx(pair, abs=1e-5) for pair in expected[4:]]
