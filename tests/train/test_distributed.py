"""Invariant 1 across processes: two compute the same as one; ranks whose code, data or settings differ are refused."""

import json
import shutil

import pytest
import torch
from ranks import run_ranks
from toy_trainers import CHANGES, Recorder, make_trainer, resume_point, weights_and_optimizer
from transformers import TrainerCallback

from recipe.model.checkpoints import checkpoints
from recipe.system.errors import UserError
from recipe.system.manifest import MANIFEST, damage
from recipe.train.run_record import require_identical_ranks


class DropoutDraws(TrainerCallback):
    """The next random number of each rank's generator, gathered."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            generator_state = torch.get_rng_state()
            draw = torch.rand(1)
            torch.set_rng_state(generator_state)
            self.draws = [torch.zeros(1) for _ in range(args.world_size)]
            torch.distributed.all_gather(self.draws, draw)


def steps_of(recorder):
    return [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]


def test_two_processes_compute_the_same_steps_as_one(tmp_path, bpe, documents):
    recorder = Recorder()
    alone = make_trainer(tmp_path / "one", bpe, documents, micro=32, callbacks=[recorder])
    alone.train()
    expected = steps_of(recorder)
    metrics = alone.evaluate()
    folder = tmp_path / "two"
    third = len(alone.eval_dataset) // 3 + 1  # three batches: in the last round one rank has none

    def work(rank):
        recorder, draws = Recorder(), DropoutDraws()
        trainer = make_trainer(
            folder,
            bpe,
            documents,
            micro=8,
            accumulation=2,
            callbacks=[recorder, draws],
            per_device_eval_batch_size=third,
        )
        trainer.train()
        metrics = trainer.evaluate()
        return {"steps": steps_of(recorder), "draws": [draw.item() for draw in draws.draws], **metrics}

    found, _ = run_ranks(2, work, tmp_path / "ranks")
    assert len(found["steps"]) == 6
    for (loss, norm), (one_loss, one_norm) in zip(found["steps"], expected, strict=True):
        assert loss == pytest.approx(one_loss, abs=1e-5)
        assert norm == pytest.approx(one_norm, abs=1e-5)
    assert found["eval_loss"] == pytest.approx(metrics["eval_loss"], abs=1e-5)
    assert found["eval_masked_tokens"] == metrics["eval_masked_tokens"]  # no block twice, none missing
    assert len(set(found["draws"])) == 2  # dropout differs between ranks
    assert [damage(checkpoint) for checkpoint in checkpoints(folder)] == [None, None, None]
    assert [json.loads((saved / MANIFEST).read_text())["ranks"] for saved in checkpoints(folder)] == [2, 2, 2]

    # One process resumes from the checkpoint of two: the same data, the same schedule (dropout is off).
    recorder = Recorder()
    resumed = make_trainer(folder, bpe, documents, micro=16, accumulation=2, callbacks=[recorder])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert steps_of(recorder) == [pytest.approx(pair, abs=1e-5) for pair in expected[4:]]


@pytest.mark.slow
def test_muon_and_stages_match_on_one_and_two_processes_and_resume_to_the_same_bits(tmp_path, bpe, documents):
    more = CHANGES | {"optim": "muon"}
    recorder = Recorder()
    make_trainer(tmp_path / "one", bpe, documents, micro=32, callbacks=[recorder], **more).train()
    expected = [list(pair) for pair in steps_of(recorder)]

    def two(folder):
        def work(rank):
            recorder = Recorder()
            trainer = make_trainer(folder, bpe, documents, micro=8, accumulation=2, callbacks=[recorder], **more)
            trainer.train(resume_from_checkpoint=resume_point(folder))
            return steps_of(recorder)

        return run_ranks(2, work, folder.with_name(f"{folder.name}-ranks"))[0]

    found = two(tmp_path / "two")
    # Muon computes in bf16, which amplifies a difference in the last bit of a sum.
    assert found == [pytest.approx(pair, abs=1e-3) for pair in expected] and len(found) == 6
    assert found[0] == pytest.approx(expected[0], abs=1e-5)

    shutil.copytree(tmp_path / "two" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    assert two(tmp_path / "again") == found[4:]
    ends = [weights_and_optimizer(tmp_path / folder / "checkpoint-6") for folder in ("two", "again")]
    assert ends[0] == ends[1]


def test_ranks_that_differ_are_refused(tmp_path, monkeypatch):
    def work(rank):
        torch.distributed.init_process_group("gloo")
        require_identical_ranks({"seed": 1, "data": "a"})
        messages = []
        for signature in ({"seed": 1, "data": "ab"[rank]}, {"seed": 1} | ({"data": "a"} if rank else {})):
            try:
                require_identical_ranks(signature)
            except UserError as error:
                messages.append(str(error))
        monkeypatch.setattr("recipe.train.run_record._code_fingerprint", lambda: f"code {rank}")
        try:
            require_identical_ranks({})
        except UserError as error:
            messages.append(str(error))
        return messages

    for messages in run_ranks(2, work, tmp_path):
        assert "data b" in messages[0] and "data a" in messages[0] and "rank 1" in messages[0]
        assert "data" in messages[1]
        assert "code 1" in messages[2] and "code 0" in messages[2]
