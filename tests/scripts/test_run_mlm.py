"""run_mlm.py from the command line to the files of its run folder, in this process."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import ARCHITECTURES
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainerCallback, pipeline

from recipe.finetune.starting_point import progress_of
from recipe.model.checkpoints import checkpoints, step_of
from recipe.model.families import MASKED
from recipe.programs import mlm
from recipe.sweep.sweep import training_is_over
from recipe.system.errors import UserError
from recipe.train import build
from recipe.train.trainer import PretrainTrainer


@pytest.mark.parametrize("family", MASKED)
def test_a_run_leaves_what_users_of_transformers_expect(run, tmp_path, family):
    code, printed = run(family=family)
    folder = tmp_path / "run"
    assert code == 0
    for name in ("all_results.json", "train_results.json", "eval_results.json", "trainer_state.json", "log.jsonl"):
        assert (folder / name).exists(), name
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert {"eval_masked_accuracy", "eval_unigram_loss", "train_loss"} <= set(results)
    for text in (
        "unigram baseline",
        "masked accuracy",
        "bash finetune_glue.sh",
        "8 sequences x 1 accumulation x 1 process",
    ):
        assert text in printed
    assert not list(folder.rglob("*.bin"))  # safetensors only

    for checkpoint in (*checkpoints(folder), folder):
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        assert type(model).__name__ == ARCHITECTURES[family]
        assert model.get_input_embeddings().num_embeddings % 64 == 0
        guesses = pipeline("fill-mask", model=str(checkpoint))(f"the cat {tokenizer.mask_token} on a mat")
        assert len(guesses) == 5 and guesses[0]["score"] > 0
    last = AutoModelForMaskedLM.from_pretrained(folder / "checkpoint-4")
    with torch.no_grad():
        ids = torch.randint(5, 60, (2, 12))
        assert torch.equal(last(ids).logits, model(ids).logits)


def test_a_finished_run_is_reported_as_done_and_other_settings_are_refused(run):
    run()
    code, printed = run()
    assert code == 0 and "is done: 4 steps" in printed
    with pytest.raises(UserError, match=r"begun with learning_rate 0.01, now it is 0.02"):
        run("--learning_rate", "2e-2")
    with pytest.raises(UserError, match="begun with max_seq_length 32, now it is 16"):
        run("--max_seq_length", "16")
    with pytest.raises(UserError, match="begun with global_batch_size 8, now it is 4"):
        run("--per_device_train_batch_size", "4")
    with pytest.raises(UserError, match=r"begun with max_grad_norm 1\.0, now it is 0\.5"):
        run("--max_grad_norm", "0.5")
    code, printed = run("--max_steps", "6", "--allow_changed", "max_steps")
    assert code == 0 and "step" not in printed.split("eval loss")[1].split("\n")[0]


EVERYTHING = (
    "--mlm_probability", "0.3", "--mlm_probability_end", "0.1", "--span_masking", "true", "--dropout", "0",
    "--short_seq_length", "16", "--short_seq_share", "0.5", "--batch_warmup_start", "2", "--batch_warmup_steps", "2",
    "--optim", "muon", "--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 0.5}',
)  # fmt: skip


def test_all_objectives_and_schedules_together_and_none_may_change_on_resume(run, tmp_path):
    code, printed = run(*EVERYTHING)
    assert code == 0
    stages = [line for line in printed.splitlines() if line.startswith("stage")]
    assert [line.split(": ")[1] for line in stages] == [
        "4 sequences of 16 = 64 tokens per step", "8 sequences of 16 = 128 tokens per step", "8 sequences of 32 = 256 tokens per step"
    ]  # fmt: skip
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["num_input_tokens_seen"] == 64 + 128 + 2 * 256
    assert progress_of(tmp_path / "run" / "checkpoint-4") == (4, 64 + 128 + 2 * 256)
    logs = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open() if '"loss"' in line]
    assert [log["learning_rate"] for log in logs] == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3])
    assert [log["tokens_seen"] for log in logs] == [64, 64 + 128, 64 + 128 + 256, 64 + 128 + 2 * 256]
    signature = json.loads((tmp_path / "run" / "run.json").read_text())["meaning"]
    for name, value in zip(EVERYTHING[::2], EVERYTHING[1::2], strict=True):
        name = name.removeprefix("--")
        if name in ("dropout", "lr_scheduler_kwargs", "lr_scheduler_type"):
            continue
        assert str(signature[name]).lower() == value
        other = {"true": "false", "muon": "adamw_torch"}.get(value, "1" if name == "batch_warmup_start" else "0.05")
        other = {"short_seq_length": "8", "batch_warmup_steps": "1", "mlm_probability": "0.2"}.get(name, other)
        changed = [*EVERYTHING]
        changed[changed.index(f"--{name}") + 1] = other
        with pytest.raises(UserError, match=f"begun with {name} "):
            run(*changed)
    assert "is done: 4 steps" in run(*EVERYTHING)[1]


def test_another_seed_masks_other_tokens_in_training_and_the_same_in_evaluation(run, monkeypatch):
    runs = {}
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: runs.update({parts[4].seed: parts[3]}) or 0)
    for seed in ("1", "2"):
        run("--seed", seed, "--data_seed", "5", "--short_seq_length", "16", "--short_seq_share", "0.5")
    short, whole = ((lambda run, phase=phase: run.of_phases[phase]) for phase in (0, 1))
    for part, same in ((short, False), (whole, False), (lambda run: run.evaluation, True)):
        sequences = [part(runs[seed]) for seed in (1, 2)]
        assert (sequences[0].block_ids(range(8)) == sequences[1].block_ids(range(8))).all()
        masks = [of.__getitems__(range(8))["masked_positions"] for of in sequences]
        assert torch.equal(*masks) == same, part


def test_training_and_evaluation_use_their_own_splits(run, monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: runs.append(parts[3]) or 0)
    run()
    (prepared,) = (tmp_path / "data").glob("*/prepared.json")
    for sequences, split in ((runs[0].train, "train"), (runs[0].evaluation, "validation")):
        assert np.array_equal(sequences.blocks.tokens[:], np.load(prepared.parent / f"{split}.npy")), split


def test_a_diverged_run_exits_with_3(run, tmp_path, capsys):
    run()
    weights = load_file(tmp_path / "run" / "model.safetensors")
    weights["lm_head.dense.weight"][0, 0] = math.nan
    save_file(weights, tmp_path / "run" / "model.safetensors", metadata={"format": "pt"})
    start = ("--model_name_or_path", str(tmp_path / "run"), "--config_name", None, "--tokenizer_name", None)
    assert run(*start, "--vocab_size", None, "--output_dir", str(tmp_path / "more"))[0] == 3
    assert not checkpoints(tmp_path / "more")


def test_checkpoints_of_save_at_are_saved_and_kept(run, tmp_path):
    assert run("--save_at", ("1", "3"), "--save_steps", "2", "--save_total_limit", "1")[0] == 0
    assert [step_of(folder) for folder in checkpoints(tmp_path / "run")] == [1, 3, 4]


def test_a_run_with_max_hours_ends_and_is_reported_as_done(run, tmp_path):
    budget = ("--max_steps", "-1", "--max_hours", "0.0003", "--save_steps", "1000")
    code, printed = run(*budget)
    assert code == 0 and "time       0.0003 hours" in printed and "step      1  loss" in printed
    (checkpoint,) = checkpoints(tmp_path / "run")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["TimeBudget"]["attributes"]["seconds"] >= 0.0003 * 3600
    last = [log for log in state["log_history"] if "learning_rate" in log][-1]
    assert last["learning_rate"] < 5e-3
    assert training_is_over([str(tmp_path / "run")])
    assert f"is done: {state['global_step']} steps" in run(*budget)[1]
    code, _ = run(*budget[:2], "--max_hours", "0.001", *budget[4:], "--allow_changed", "max_hours")
    assert code == 0 and len(checkpoints(tmp_path / "run")) == 2
    logs = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open() if '"learning_rate"' in line]
    (first,) = [log for log in logs if log["step"] == state["global_step"] + 1]
    spent = state["stateful_callbacks"]["TimeBudget"]["attributes"]["seconds"]
    assert first["learning_rate"] == pytest.approx(1e-2 * (1 - spent / 3.6))  # of the new budget


def test_a_signal_saves_a_checkpoint_exits_with_75_and_the_next_run_resumes(run, tmp_path, monkeypatch):
    class Killer(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGUSR1)

    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        monkeypatch.setattr(build, "RankSeed", Killer)
        code, printed = run()
        assert code == 75 and "saved in" in printed and "checkpoint-3" in printed
        assert checkpoints(tmp_path / "run")[-1].name == "checkpoint-3"
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        code, _ = run()
        assert code == 0 and checkpoints(tmp_path / "run")[-1].name == "checkpoint-4"
        steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").open() if '"loss"' in line]
        assert steps == [1, 2, 3, 4]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_training_continues_from_the_weights_of_another_run(run, tmp_path):
    run()
    code, _ = run(
        "--config_name", None, "--tokenizer_name", None,
        "--model_name_or_path", str(tmp_path / "run" / "checkpoint-4"), "--output_dir", str(tmp_path / "more"),
    )  # fmt: skip
    assert code == 0
    first, last = (json.loads((tmp_path / run / "all_results.json").read_text()) for run in ("run", "more"))
    assert last["eval_loss"] < first["eval_loss"]


def test_a_run_killed_in_its_last_evaluation_is_evaluated_by_the_next_call(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    monkeypatch.setattr(mlm, "report", killed)
    monkeypatch.setattr(PretrainTrainer, "evaluate", killed)
    with pytest.raises(Killed):
        run()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "run" / "eval_results.json").exists()
    assert run()[0] == 0
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["eval_loss"] > 0


def test_evaluation_alone_evaluates_the_checkpoint_and_not_fresh_weights(run, tmp_path):
    run()
    trained = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    code, printed = run(do_train=False)
    assert code == 0 and "evaluating" in printed
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_loss"] == trained["eval_loss"]
    with pytest.raises(UserError, match=r"found no checkpoint in .* to evaluate"):
        run("--output_dir", str(tmp_path / "empty"), do_train=False)


def test_a_checkpoint_is_refused_with_another_tokenizer(run, tmp_path, bpe):
    run()
    bpe.save_pretrained(tmp_path / "other")
    more = ("--config_name", None, "--model_name_or_path", str(tmp_path / "run" / "checkpoint-4"))
    for tokenizer, message in (
        ("train", "leave --tokenizer_name out"),
        (str(tmp_path / "other"), "isn't the one that"),
    ):
        with pytest.raises(UserError, match=message):
            run(*more, "--output_dir", str(tmp_path / "more"), "--tokenizer_name", tokenizer)


def test_flags_without_effect_are_warned_about(run):
    _, printed = run("--streaming", "true", "--pad_to_max_length", "true")
    assert "warning: --streaming has no effect" in printed and "--pad_to_max_length has no effect" in printed


EACH_EPOCH = tuple(part for what in ("eval", "save", "logging") for part in (f"--{what}_strategy", "epoch"))


def at_steps(folder, name) -> list[int]:
    """The steps of log.jsonl's lines that have `name`."""
    return [entry["step"] for entry in map(json.loads, (folder / "log.jsonl").open()) if name in entry]


def test_actions_per_epoch_happen_at_the_end_of_each_epoch(run, tmp_path):
    """20 blocks in batches of 8: three epochs end with steps 3, 5 and 8."""
    epochs = (*EACH_EPOCH, "--max_train_samples", "20", "--num_train_epochs", "3", "--max_steps", "-1")
    assert run(*epochs)[0] == 0
    folder = tmp_path / "run"
    assert [step_of(checkpoint) for checkpoint in checkpoints(folder)] == [3, 5, 8]
    assert at_steps(folder, "loss") == [3, 5, 8]
    assert at_steps(folder, "eval_loss") == [3, 5, 8]  # the last is --do_eval's, too
    weights, log = (folder / "checkpoint-8" / "model.safetensors").read_bytes(), at_steps(folder, "loss")

    shutil.rmtree(folder / "checkpoint-8")
    for name in ("train_results.json", "eval_results.json"):
        (folder / name).unlink()
    assert run(*epochs)[0] == 0
    assert (folder / "checkpoint-8" / "model.safetensors").read_bytes() == weights
    assert at_steps(folder, "loss") == log

    more = ("--output_dir", str(tmp_path / "steps"), "--max_steps", "4", "--eval_delay", "2", "--save_at", ("1",))
    assert run(*epochs[:-4], *more)[0] == 0
    assert [step_of(checkpoint) for checkpoint in checkpoints(tmp_path / "steps")] == [1, 3, 4]
    assert at_steps(tmp_path / "steps", "eval_loss") == [4]  # do_eval's: the run ends before its second epoch does
    staged = ("--output_dir", str(tmp_path / "staged"), "--short_seq_length", "16", "--short_seq_share", "0.5")
    assert run(*epochs, *staged)[0] == 0
    assert [step_of(checkpoint) for checkpoint in checkpoints(tmp_path / "staged")] == [3, 5, 8]


def test_resuming_from_another_run_compares_the_resume_signatures(run, tmp_path):
    run()
    named = ("--output_dir", str(tmp_path / "more"), "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-4"))
    with pytest.raises(UserError, match=r"/run was begun with max_steps 4, now it is 8: use the former or --allow_ch"):
        run(*named, "--max_steps", "8")
    assert not (tmp_path / "more").exists()
    longer = ("--max_steps", "8", "--save_steps", "1", "--allow_changed", "max_steps")
    code, printed = run(*named, *longer)
    assert code == 0 and "warning: there is no run.json" not in printed
    logs = [json.loads(line) for line in (tmp_path / "more" / "log.jsonl").open() if '"loss"' in line]
    assert [log["learning_rate"] for log in logs] == pytest.approx([5e-3, 3.75e-3, 2.5e-3, 1.25e-3])
    assert [step_of(checkpoint) for checkpoint in checkpoints(tmp_path / "more")] == [5, 6, 7, 8]
    (begun,) = json.loads((tmp_path / "more" / "run.json").read_text())["history"]
    assert begun == {"resumed_from": named[3], "changed": {"max_steps": [4, 8]}}
    (tmp_path / "run" / "run.json").unlink()
    assert "warning: there is no run.json beside" in run(*named, *longer)[1]


def test_a_failure_before_the_first_step_leaves_nothing(run, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(PretrainTrainer, "get_train_dataloader", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        run()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="found no checkpoint in"):
        run(do_train=False)
    assert not list((tmp_path / "run").iterdir())


def test_a_run_without_a_complete_checkpoint_is_refused_and_not_restarted(run, tmp_path):
    run()
    for checkpoint in checkpoints(tmp_path / "run"):
        (checkpoint / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints in .* is complete"):
        run()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--max_seq_length", "65"), "positions for 64 tokens"),
        (("--train_file", "none.txt"), "found no text at none.txt"),
        (("--tokenizer_name", "none/"), "none/"),
        (("--config_name", None), "found no model"),
        (("--resume_from_checkpoint", "nowhere"), "cannot resume from nowhere: it has no manifest.json"),
        (("--global_batch_size", "12"), "micro-batch of 8: micro-batch sizes that fit:"),
        (("--report_to", "tensorboard"), "pip install tensorboard"),
        (("--model_name_or_path", "somewhere"), "pass one or the other"),
        (("--use_fast_tokenizer", "false"), "only fast tokenizers"),
        (("--push_to_hub", "true"), "found --push_to_hub, and the Hugging Face hub cannot be reached"),
        (("--config_overrides", "is_decoder=true"), "is a causal model, expected a masked one: use run_clm.py"),
        (("--model_type", "gpt5", "--config_name", None), "expected one of roberta, bert, modernbert"),
        (("--dropout", "1"), "dropout 1.0, expected at least 0 and less than 1"),
        (("--mlm_probability_end", "0.2"), "mlm_probability_end 0.2, expected more than 0 and at most"),
        (("--mlm_probability_end", "0.1", "--max_hours", "1"), "mlm_probability_end beside --max_hours"),
        (("--span_p", "1"), "span_p 1.0"),
        (("--span_max_length", "0"), "span_max_length 0"),
        (("--short_seq_length", "12"), "short_seq_length 12 beside --max_seq_length 32"),
        (("--short_seq_length", "4"), "short_seq_length 4, expected at least 8"),
        (("--short_seq_length", "8", "--short_seq_share", "1"), "short_seq_share 1.0"),
        (("--short_seq_length", "8", "--max_hours", "1"), "short_seq_length beside --max_hours"),
        (("--batch_warmup_start", "4"), "batch_warmup_start 4 and --batch_warmup_steps 0: pass both"),
        (
            ("--batch_warmup_start", "3", "--batch_warmup_steps", "2"),
            "batch_warmup_start 3, expected the global batch of 8",
        ),
        (
            ("--global_batch_size", "32", "--batch_warmup_start", "2", "--batch_warmup_steps", "2"),
            "a multiple of 4, acc",
        ),
        (("--max_hours", "0"), "max_hours 0.0"),
        (("--save_at", ("0", "2")), "save_at 0, expected at least 1"),
        (("--optim", "adam"), "adam"),
        (("--optim", "muon", "--optim_args", "beta=1"), "optim_args beta=1"),
        (("--lr_scheduler_type", "warmup_stable_decay"), "no num_decay_steps"),
        (("--lr_scheduler_kwargs", "{num"), "."),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(run, tmp_path, argv, message):
    with pytest.raises(UserError, match=message):
        run(*argv)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--output_dir", "--prepared_dir"])
def test_a_folder_of_text_is_not_written_into(run, tmp_path, text_file, flag):
    (tmp_path / "text").mkdir()
    text_file.rename(tmp_path / "text" / "train.txt")
    for link in ("corpus", "results"):
        (tmp_path / link).symlink_to(tmp_path / "text")
    with pytest.raises(UserError, match=f"found {flag} .*results/here inside .*corpus, whose files are the text"):
        run("--train_file", str(tmp_path / "corpus"), flag, str(tmp_path / "results" / "here"))
    assert [file.name for file in (tmp_path / "text").iterdir()] == ["train.txt"]


def test_a_corpus_shorter_than_a_block_is_refused(run, tmp_path):
    (tmp_path / "train.txt").write_text("the cat\n\nsat")
    (tmp_path / "valid.txt").write_text("on a mat")
    with pytest.raises(UserError, match=r"training text has \d+ tokens, expected at least 30"):
        run("--train_file", str(tmp_path / "train.txt"), "--validation_file", str(tmp_path / "valid.txt"))


def test_a_tokenizer_larger_than_the_model_is_refused_with_both_sizes(run, write_config):
    with pytest.raises(UserError, match=r"the tokenizer has 300 tokens, .* has 290 embeddings"):
        run(config=write_config(vocab_size=290))
