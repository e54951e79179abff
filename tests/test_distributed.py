"""Law 1 across processes: two of them compute what one computes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from test_trainer import CHANGES, Recorder, make_trainer, weights_and_optimizer
from toy import REPOSITORY

from recipe.checkpoints import checkpoints, damage


def two_processes(folder, **more):
    """Trains in two processes, from the newest checkpoint in `folder` if there is one; returns what they found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(REPOSITORY / "tests" / "distributed_step.py"), str(folder), "8", "2", json.dumps(more)]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_two_processes_take_the_steps_of_one(tmp_path, bpe, documents):
    recorder = Recorder()
    alone = make_trainer(tmp_path / "one", bpe, documents, micro=32, callbacks=[recorder])
    alone.train()
    expected = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
    metrics = alone.evaluate()

    folder = tmp_path / "two"
    found = two_processes(folder)
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


@pytest.mark.slow
def test_muon_and_stages_on_two_processes_are_those_of_one_and_resume_to_the_same_bits(tmp_path, bpe, documents):
    more = CHANGES | {"optim": "muon"}
    recorder = Recorder()
    make_trainer(tmp_path / "one", bpe, documents, micro=32, callbacks=[recorder], **more).train()
    expected = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
    found = two_processes(tmp_path / "two", **more)["steps"]
    # Muon's arithmetic is bf16, which shows a difference in the last bit of a sum.
    assert found == [pytest.approx(pair, abs=1e-3) for pair in expected] and len(found) == 6
    assert found[0] == pytest.approx(expected[0], abs=1e-5)

    shutil.copytree(tmp_path / "two" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    continued = two_processes(tmp_path / "again", **more)["steps"]
    assert continued == found[4:]
    ends = [weights_and_optimizer(tmp_path / folder / "checkpoint-6") for folder in ("two", "again")]
    assert ends[0] == ends[1]
