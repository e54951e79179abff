"""Invariants 1, 4, 6, 7 and 8 of the training loop: one process, a toy model, every split of a batch and interruption."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import TOKENIZERS
from toy_trainers import (
    CHANGES,
    LENGTH,
    Killed,
    Recorder,
    kill,
    losses_and_norms,
    make_trainer,
    resume_point,
    train_and_kill,
    weights_and_optimizer,
)
from transformers import TrainerCallback

import recipe.train.saving
from recipe.model.checkpoints import checkpoints, newest_complete, step_of
from recipe.model.families import FAMILIES, MASKED
from recipe.objective.span_masking import Spans
from recipe.objective.unigram import UnigramBaseline
from recipe.system.errors import UserError
from recipe.system.manifest import damage
from recipe.train.schedules import UNLIMITED_STEPS, time_is_up
from recipe.train.stages import MaskingRateDecay, stages_of
from recipe.train.trainer import NonFiniteError, PretrainTrainer

# ---- invariant 1


@pytest.mark.parametrize("document_attention", [False, True])
@pytest.mark.parametrize("family", MASKED)
def test_a_step_is_the_same_however_its_batch_is_split(tmp_path, documents, family, document_attention, request):
    if document_attention and not FAMILIES[family].takes_masks:
        pytest.skip("refused for this family")
    tokenizer = request.getfixturevalue(TOKENIZERS[family])
    # 200 documents make 189 blocks of 32 BPE tokens: step 6 of 32 sequences holds the padded last block.
    common = {"family": family, "document_attention": document_attention}
    single = losses_and_norms(tmp_path / "a", tokenizer, documents, micro=32, **common)
    assert len(single) == 6 and single[0][0] == pytest.approx(math.log(320), abs=0.3)
    for micro, accumulation in ((8, 4), (4, 8)):
        cut = losses_and_norms(
            tmp_path / f"b{micro}", tokenizer, documents, micro=micro, accumulation=accumulation, **common
        )
        for (loss, norm), (cut_loss, cut_norm) in zip(single, cut, strict=True):
            assert cut_loss == pytest.approx(loss, abs=1e-5)
            assert cut_norm == pytest.approx(norm, abs=1e-5)


def test_the_first_loss_is_the_mean_over_the_masked_tokens_of_the_step(tmp_path, bpe, documents):
    ((loss, _),) = losses_and_norms(tmp_path, bpe, documents, micro=8, accumulation=2, steps=1)
    trainer = make_trainer(tmp_path / "b", bpe, documents)
    batch = trainer.train_dataset.__getitems__(range(16))
    labels = torch.full_like(batch["input_ids"], -100).scatter_(1, batch["masked_positions"], batch["labels"])
    dense = type(trainer.model).forward(trainer.model, batch["input_ids"], labels=labels)
    assert loss == pytest.approx(dense.loss.item(), abs=1e-5)


# ---- invariants 4 and 6


@pytest.mark.parametrize(
    ("family", "workers", "accumulation"),
    [("roberta", 0, 1), ("roberta", 0, 2), ("roberta", 2, 2), ("bert", 0, 2), ("modernbert", 0, 2)],
)
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, bpe, documents, family, workers, accumulation):
    options = {
        "family": family,
        "micro": 16,
        "accumulation": accumulation,
        "steps": 9,  # more than two epochs at 32 sequences per step
        "dropout": 0.1,
        "dataloader_num_workers": workers,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "logging_steps": 4,  # a kill between two logs must not change their mean
    }
    make_trainer(tmp_path / "uninterrupted", bpe, documents, **options).train()
    expected = weights_and_optimizer(tmp_path / "uninterrupted" / "checkpoint-9")

    folder = tmp_path / "killed"
    train_and_kill(folder, bpe, documents, (1, 3, 4, 7), **options)
    assert weights_and_optimizer(folder / "checkpoint-9") == expected
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("uninterrupted", "killed")]
    for kind in ("loss", "eval_loss"):
        curves = [[(log["step"], log[kind], log["epoch"]) for log in lines if kind in log] for lines in logs]
        assert curves[0] == curves[1]


# {option: (its arguments, its masking)}
OPTIONS = {
    "lengths": ({"short_seq_length": 16, "short_seq_share": 0.6}, {}),
    "batches": ({"batch_warmup_start": 8, "batch_warmup_steps": 3}, {}),
    "lengths, batches, workers": (CHANGES | {"dataloader_num_workers": 2}, {}),
    "muon": ({"optim": "muon"}, {}),
    "decay": ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 3}}, {}),
    "documents": ({"document_attention": True}, {}),
    "spans": ({}, {"spans": Spans()}),
    "rate": ({}, {"mlm_probability": 0.4, "rate_of": MaskingRateDecay(0.4, 0.1, stages_of(8, LENGTH, 32), LENGTH)}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_killed_and_resumed_ends_with_the_same_bits_for_each_option(tmp_path, bpe, documents, name):
    arguments, masking = OPTIONS[name]
    options = {"micro": 16, "accumulation": 2, "steps": 8, "dropout": 0.1, "masking": masking, **arguments}
    make_trainer(tmp_path / "uninterrupted", bpe, documents, **options).train()
    expected = weights_and_optimizer(tmp_path / "uninterrupted" / "checkpoint-8")
    folder = tmp_path / "killed"
    train_and_kill(folder, bpe, documents, (3, 7), **options)
    assert weights_and_optimizer(folder / "checkpoint-8") == expected
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("uninterrupted", "killed")]
    curves = [[(log["loss"], log["tokens_seen"], log["epoch"]) for log in lines if "loss" in log] for lines in logs]
    assert curves[0] == curves[1] and len(curves[0]) == 8


class Clock(TrainerCallback):
    """A clock that advances by 500 s per step, so that two runs can be compared."""

    now = 0.0

    def __call__(self):
        return self.now

    def on_step_begin(self, args, state, control, **kwargs):
        self.now += 500.0


def test_killed_and_resumed_ends_with_the_same_bits_under_a_time_budget(tmp_path, bpe, documents):
    def run(folder, *callbacks):
        options = {"steps": UNLIMITED_STEPS, "max_hours": 1, "dropout": 0.1}
        trainer = make_trainer(folder, bpe, documents, callbacks=[clock := Clock(), *callbacks], **options)
        trainer.time_budget.clock = clock
        trainer.train(resume_from_checkpoint=resume_point(folder))
        return trainer

    uninterrupted = run(tmp_path / "uninterrupted")
    assert uninterrupted.is_over() and uninterrupted.state.global_step == 8  # 8 x 500 s is more than an hour
    assert uninterrupted._get_learning_rate() == 0
    checkpoints = [tmp_path / "uninterrupted" / f"checkpoint-{step}" for step in (6, 8)]
    assert [time_is_up(checkpoint, 1) for checkpoint in checkpoints] == [False, True]

    for at_step in (3, 7):
        with pytest.raises(Killed):
            run(tmp_path / "killed", Recorder(at_step, kill))
    assert run(tmp_path / "killed").state.global_step == 8
    ends = [weights_and_optimizer(tmp_path / folder / "checkpoint-8") for folder in ("uninterrupted", "killed")]
    assert ends[0] == ends[1]


def test_a_step_of_every_stage_is_the_same_however_its_batch_is_split(tmp_path, bpe, documents):
    cuts = {}
    for micro, accumulation in ((32, 1), (8, 4), (16, 2)):
        recorder = Recorder()
        options = {"micro": micro, "accumulation": accumulation, "callbacks": [recorder], "save_strategy": "no"}
        trainer = make_trainer(tmp_path / f"{micro}", bpe, documents, **options, **CHANGES)
        trainer.train()
        cuts[micro] = [(log["loss"], log["grad_norm"]) for log in recorder.logs if "loss" in log]
    assert len(cuts[32]) == 6
    for micro in (8, 16):
        assert cuts[micro] == [pytest.approx(pair, abs=1e-5) for pair in cuts[32]]
    stages = [(stage.length, stage.batch) for stage in trainer.stages]
    assert stages == [(16, 16), (16, 32), (16, 64), (32, 32)]


def test_every_stage_sees_its_own_sequences(tmp_path, bpe, documents):
    trainer = make_trainer(tmp_path, bpe, documents, micro=16, accumulation=2, **CHANGES)
    batches = list(trainer.get_train_dataloader())
    assert len(batches) == len(trainer.get_train_dataloader()) == 6 * 2
    for step in range(6):
        stage, numbers = trainer.stages.at(step), trainer.stages.sequences(step)
        data = trainer.train_dataset if stage.length == LENGTH else trainer.phase_datasets[0]
        expected = data.__getitems__(numbers)["input_ids"]
        assert torch.equal(torch.cat([batch["input_ids"] for batch in batches[2 * step : 2 * step + 2]]), expected)


def test_a_resumed_run_sees_the_blocks_and_masks_of_an_uninterrupted_one(tmp_path, bpe, documents):
    seen = []

    class RecordingTrainer(PretrainTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append((self.state.global_step, inputs["input_ids"].clone(), inputs["masked_positions"].clone()))
            return super().training_step(model, inputs, num_items_in_batch)

    def run(folder, micro, resume=None, at_step=None):
        recorder = Recorder(at_step, kill)
        trainer = make_trainer(folder, bpe, documents, micro=micro, accumulation=8 // micro, callbacks=[recorder])
        trainer.__class__ = RecordingTrainer
        trainer.train(resume_from_checkpoint=resume)

    def steps():
        by_step = {}
        for step, ids, positions in seen:
            by_step.setdefault(step, []).append(torch.cat([ids, positions], 1))
        seen.clear()
        return {step: torch.cat(parts) for step, parts in by_step.items()}

    run(tmp_path / "uninterrupted", 8)
    uninterrupted = steps()
    with pytest.raises(Killed):
        run(tmp_path / "killed", 4, at_step=5)
    seen.clear()
    run(tmp_path / "killed", 2, resume=resume_point(tmp_path / "killed"))  # other micro-batches as well
    resumed = steps()
    assert sorted(resumed) == [4, 5] and sorted(uninterrupted) == list(range(6))
    assert all(torch.equal(resumed[step], uninterrupted[step]) for step in resumed)


# ---- invariants 7 and 8


def test_checkpoints_are_complete_plain_and_rotated(tmp_path, bpe, documents):
    make_trainer(tmp_path, bpe, documents, save_total_limit=2).train()
    found = checkpoints(tmp_path)
    assert [f.name for f in found] == ["checkpoint-4", "checkpoint-6"]
    assert all(damage(folder) is None for folder in found)
    assert sorted(file.name for file in found[-1].iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors", "optimizer.pt", "rng_state.pth",
        "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trainer_state.json",
    ]  # fmt: skip
    assert not (tmp_path / "_staging").exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_a_full_disk_is_a_one_line_error_and_earlier_checkpoints_stay(tmp_path, bpe, documents, monkeypatch, file):
    make_trainer(tmp_path / "uninterrupted", bpe, documents).train()
    save = torch.save

    def full(content, target, *args, **kwargs):
        if "checkpoint-4" in str(target) and str(target).endswith(file):
            raise OSError(28, "No space left on device")
        save(content, target, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left to save .*checkpoint-4: it takes [\d,]+ bytes and more"):
        make_trainer(tmp_path / "run", bpe, documents).train()
    assert [damage(folder) for folder in checkpoints(tmp_path / "run")] == [None]
    assert not (tmp_path / "run" / "_staging").exists()
    monkeypatch.undo()
    make_trainer(tmp_path / "run", bpe, documents).train(resume_from_checkpoint=resume_point(tmp_path / "run"))
    uninterrupted, run = (weights_and_optimizer(tmp_path / name / "checkpoint-6") for name in ("uninterrupted", "run"))
    assert run == uninterrupted


def test_other_errors_while_saving_are_raised_unchanged(tmp_path, bpe, documents, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_trainer(tmp_path, bpe, documents).train()


@pytest.mark.parametrize("function", ["commit", "rotate"])
def test_killed_during_a_save_one_complete_checkpoint_is_left(tmp_path, bpe, documents, monkeypatch, function):
    trainer = make_trainer(tmp_path, bpe, documents, save_steps=1, save_total_limit=1)
    original = getattr(recipe.train.saving, function)

    def killed(*args, **kwargs):
        if trainer.state.global_step == 3:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(recipe.train.saving, function, killed)
    with pytest.raises(Killed):
        trainer.train()
    assert newest_complete(tmp_path).name == {"commit": "checkpoint-2", "rotate": "checkpoint-3"}[function]


@pytest.mark.parametrize("where", ["loss", "gradient", "weights"])
def test_a_non_finite_value_stops_the_run_within_the_step_and_is_never_saved(tmp_path, bpe, documents, where):
    trainer = make_trainer(tmp_path, bpe, documents, save_steps=1)
    compute_loss = trainer.compute_loss

    def poison(model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if trainer.state.global_step == 3:
            if where == "loss":
                return loss * math.inf
            parameter = model.lm_head.dense.weight
            if where == "weights":
                parameter.data[0, 0] = math.nan
                return compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            parameter.register_hook(lambda gradient: gradient * math.nan)
            return compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss

    trainer.compute_loss = poison
    with pytest.raises(
        NonFiniteError, match=r"step 4: .*weights are those of step 3.*checkpoint-3.*Blocks of the batch"
    ):
        trainer.train()
    assert [f.name for f in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_skipped_update_leaves_the_weights_unchanged_and_is_counted(tmp_path, bpe, documents):
    trainer = make_trainer(tmp_path, bpe, documents, steps=4, save_steps=1, nonfinite="skip")
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: (
        compute_loss(*args, **kwargs) * (math.nan if trainer.state.global_step == 1 else 1)
    )
    trainer.train()
    assert trainer.skipped_updates == 1
    same = [(tmp_path / f"checkpoint-{n}" / "model.safetensors").read_bytes() for n in (1, 2, 3)]
    assert same[0] == same[1] != same[2]
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[1] == 0 and all(math.isfinite(loss) for loss in losses) and losses[2] > 1


# ---- evaluation


def test_evaluation_is_exact_and_independent_of_its_batch_size(tmp_path, bpe, documents):
    results = []
    for size in (1, 7, 64):
        trainer = make_trainer(tmp_path, bpe, documents, per_device_eval_batch_size=size)
        counts = torch.bincount(
            torch.from_numpy(trainer.train_dataset.blocks.tokens.astype("int64")), minlength=len(bpe)
        )
        trainer.baseline = UnigramBaseline(counts.numpy(), tuple(bpe.all_special_ids))
        results.append(trainer.evaluate())
    blocks = trainer.eval_dataset
    batch = blocks.__getitems__(range(len(blocks)))
    trainer.model.eval()
    out = trainer.model(**batch)
    count = (batch["labels"] >= 0).sum().item()
    for result in results:
        assert result["eval_loss"] == pytest.approx(out["loss"].item() / count, abs=1e-5)
        assert result["eval_perplexity"] == pytest.approx(math.exp(result["eval_loss"]))
        assert result["eval_masked_accuracy"] == out["accuracy"].item() / count
        assert result["eval_masked_tokens"] == count
        assert 0 < result["eval_unigram_accuracy"] < result["eval_unigram_loss"] < math.log(len(bpe))


def test_logs_have_speed_and_progress(tmp_path, bpe, documents):
    make_trainer(tmp_path, bpe, documents, micro=4, accumulation=2, peak_tflops=1.0).train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    last = [line for line in lines if "loss" in line][-1]
    assert last["tokens_seen"] == 6 * 8 * 32 and last["tokens_per_second"] > 0 and 0 < last["mfu"] < 1
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]))
    assert {"learning_rate", "grad_norm", "epoch"} <= set(last)


def test_speed_excludes_evaluation_and_saving(tmp_path, bpe, documents, monkeypatch):
    """By a clock that advances by one second per step and by a hundred per evaluation and save."""
    clock = [0.0]
    monkeypatch.setattr("recipe.train.trainer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    trainer = make_trainer(tmp_path, bpe, documents, steps=4, save_steps=2, eval_strategy="steps", eval_steps=1)

    def takes(seconds, method):
        def timed(*args, **kwargs):
            clock[0] += seconds
            return method(*args, **kwargs)

        return timed

    trainer.compute_loss = takes(1.0, trainer.compute_loss)
    trainer.evaluation_loop = takes(100.0, trainer.evaluation_loop)
    trainer._save_optimizer_and_scheduler = takes(100.0, trainer._save_optimizer_and_scheduler)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    steps = np.diff([0, *(log["tokens_seen"] for log in logs)])
    assert [log["tokens_per_second"] for log in logs] == pytest.approx(list(steps))


def test_speed_after_a_resume_counts_the_steps_since_it(tmp_path, bpe, documents):
    make_trainer(tmp_path, bpe, documents, steps=4).train()
    trainer = make_trainer(tmp_path, bpe, documents, steps=4)
    speed, counted_from = trainer._speed, []
    trainer._speed = lambda: counted_from.append(trainer._logged_at[0]) or speed()
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert counted_from == [2, 3]


class GroupSettings(TrainerCallback):
    """Records (learning rate, weight decay, betas) of each parameter group at each step."""

    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append([(group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups])


def test_a_resumed_run_uses_its_own_settings_from_its_first_step_on(tmp_path, bpe, documents):
    first = make_trainer(tmp_path, bpe, documents, steps=4, save_steps=4)
    first.train()
    recorder = GroupSettings()
    changed = {"steps": 8, "learning_rate": 4e-2, "weight_decay": 0.1, "adam_beta2": 0.9, "save_steps": 3}
    again = make_trainer(tmp_path, bpe, documents, callbacks=[recorder], **changed)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [step[0][0] for step in recorder.seen] == pytest.approx([2e-2, 1.5e-2, 1e-2, 0.5e-2])
    assert all([group[1:] for group in step] == [(0.1, (0.9, 0.9)), (0.0, (0.9, 0.9))] for step in recorder.seen)
    assert [step_of(folder) for folder in checkpoints(tmp_path)] == [4, 6, 8]
