"""recipe.finetune.qa.finetuning and run_qa.py: the exact loss, resume, what is written, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from glue_toys import as_flags, toy_run
from qa_toys import StopAt, paragraphs, squad_of, write_squad
from ranks import run_ranks
from safetensors.torch import load_file
from toy import REPOSITORY
from transformers import BertConfig, BertForMaskedLM, TrainerCallback

import run_qa
from recipe.cli.parser import parse
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.finetune.qa.finetuning import prepare
from recipe.model.checkpoints import checkpoints, newest_complete, step_of
from recipe.programs import qa
from recipe.system.errors import INTERRUPTED_EXIT_CODE, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("runs") / "toy", steps=(10, 20))


@pytest.fixture
def flags(squad, run, tmp_path):
    """The command line of a small job, changed by key=value; True stands alone, None takes the flag away."""

    def make(**changes):
        settings = {
            "model_name_or_path": run / "checkpoint-10",
            "dataset_name": squad,
            "do_train": True,
            "do_eval": True,
            "output_dir": tmp_path / "out",
            "prepared_dir": tmp_path / "prepared",
            "max_seq_length": 48,
            "doc_stride": 8,
            "per_device_train_batch_size": 8,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": "true",
            "use_cpu": "true",
            "seed": 5,
        } | changes
        return as_flags(settings)

    return make


@pytest.fixture
def work(flags):
    return lambda **changes: prepare(*parse((QaArguments, QaTrainingArguments), flags(**changes)), lambda *_: None)


def script(monkeypatch, argv):
    monkeypatch.setattr(sys, "argv", ["run_qa.py", *argv])
    return run_qa.main()


class Norms(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.seen.append((logs["loss"], float(logs["grad_norm"])))


def weights_of(job):
    return torch.cat([p.detach().flatten() for p in job.trainer.model.parameters()])


def test_law_1_no_cut_of_the_batch_changes_a_step(work):
    """Windows of several lengths in steps of 8: cut otherwise they are padded otherwise, which must not show.

    With plain SGD: a bias that moves all logits alike has a gradient of nothing but rounding, which Adam would scale up.
    """
    curves, weights = [], []
    for micro, accumulation, fixed in ((8, 1, None), (4, 2, None), (1, 8, None), (2, 4, True)):
        job = work(
            per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation, pad_to_max_length=fixed,
            learning_rate=0.1, max_steps=9, optim="sgd",
        )  # fmt: skip
        lengths = job.trainer.train_dataset.lengths
        assert len(set(lengths.tolist())) > 3 and len(lengths) % 8  # a last step that is short, too
        norms = Norms()
        job.trainer.add_callback(norms)
        job.trainer.train()
        curves.append(norms.seen)
        weights.append(weights_of(job))
    assert len(curves[0]) == 9
    for curve, final in zip(curves[1:], weights[1:], strict=True):
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5)
        torch.testing.assert_close(final, weights[0], rtol=1e-5, atol=1e-6)


def test_law_1_two_processes_take_the_steps_of_one_and_write_its_files(monkeypatch, flags, tmp_path):
    """Nobody passes --use_cpu."""
    original = qa.prepare

    def steps(name, micro) -> list:
        norms = Norms()

        def watched(*arguments):
            job = original(*arguments)
            job.trainer.add_callback(norms)
            return job

        monkeypatch.setattr(qa, "prepare", watched)
        argv = flags(
            per_device_train_batch_size=micro, output_dir=tmp_path / name, use_cpu=None, learning_rate=0.1, max_steps=6,
            optim="sgd", save_strategy="steps", save_steps=3,
        )  # fmt: skip
        assert script(monkeypatch, argv) == 0
        return norms.seen

    both = run_ranks(2, lambda rank: steps("two", 4), tmp_path / "ranks")
    alone = steps("one", 8)
    assert len(alone) == 6
    for seen in both:
        np.testing.assert_allclose(seen, alone, rtol=1e-5)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and {"squad-seed5.json", "eval_predictions.json", "checkpoint-6"} <= files[0]
    answers = [json.loads((tmp_path / name / "eval_predictions.json").read_text()) for name in ("one", "two")]
    assert answers[0] == answers[1]


def test_the_loss_is_the_mean_over_windows_of_its_two_halves(work):
    """The library's own loss, on a batch without padding; every row counts once for its start and once for its end."""
    job = work()
    data, model = job.trainer.train_dataset, job.trainer.model.eval()
    length = np.bincount(data.lengths).argmax()
    rows = np.flatnonzero(data.lengths == length)[:4].tolist()
    batch = data.__getitems__(rows)
    assert "attention_mask" not in batch and len(rows) > 1
    labels = batch["labels"]
    theirs = model(
        input_ids=batch["input_ids"], start_positions=labels[:, 0].clone(), end_positions=labels[:, 1].clone()
    )
    ours = job.trainer.compute_loss(model, dict(batch), num_items_in_batch=labels.ne(-100).sum())
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_scores_are_kept_where_their_tokens_lie(work):
    job = work(per_device_eval_batch_size=3)
    data = job.examples("validation")
    together = job.trainer.predict(data).predictions
    job.trainer.model.eval()
    for window in range(len(data)):
        with torch.no_grad():
            alone = job.trainer.model(input_ids=data[window]["input_ids"])
        place = job.windows["validation"].tokens(window)
        np.testing.assert_allclose(together[place, 0], alone.start_logits[0], atol=1e-5)
        np.testing.assert_allclose(together[place, 1], alone.end_logits[0], atol=1e-5)


class Steps(TrainerCallback):
    def __init__(self):
        self.taken = []

    def on_step_end(self, args, state, control, **kwargs):
        self.taken.append(state.global_step)


def test_a_killed_run_continues_to_the_same_bits(monkeypatch, flags, tmp_path, run, capsys):
    """With dropout, killed between two checkpoints; then the same command, with the newest checkpoint damaged."""
    model = shutil.copytree(run / "checkpoint-10", tmp_path / "model")
    (model / "manifest.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.1}))
    argv = {
        "model_name_or_path": model,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "max_steps": 9,
        "logging_steps": 3,  # the loss of step 4, the last before the kill that is kept, wasn't logged yet
    }
    assert script(monkeypatch, flags(**argv, output_dir=tmp_path / "whole")) == 0
    original = qa.prepare

    def killed(*args):
        job = original(*args)
        job.trainer.add_callback(StopAt(7))
        return job

    def watched(*args):
        job = original(*args)
        job.trainer.add_callback(steps)
        return job

    monkeypatch.setattr(qa, "prepare", killed)
    with pytest.raises(KeyboardInterrupt):
        script(monkeypatch, flags(**argv))
    steps = Steps()
    monkeypatch.setattr(qa, "prepare", watched)
    assert newest_complete(tmp_path / "out").name == "checkpoint-6"
    (tmp_path / "out" / "checkpoint-6" / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"was begun with learning_rate 0.01, now it is 0.1"):
        script(monkeypatch, flags(**argv, learning_rate=0.1))
    capsys.readouterr()
    assert script(monkeypatch, flags(**argv)) == 0
    said = capsys.readouterr().out
    assert (
        "checkpoint-6 is damaged (optimizer.pt has 4 bytes" in said
        and "resuming from" in said
        and "checkpoint-4" in said
    )
    assert steps.taken == [5, 6, 7, 8, 9]
    ends = [tmp_path / name for name in ("whole", "out")]
    first, second = (load_file(end / "checkpoint-9" / "model.safetensors") for end in ends)
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = (
        json.loads((end / "checkpoint-9" / "trainer_state.json").read_text())["log_history"] for end in ends
    )
    assert [entry["loss"] for entry in first] == [entry["loss"] for entry in second]
    answers = [(end / "eval_predictions.json").read_bytes() for end in ends]
    assert answers[0] == answers[1]


def test_it_learns_and_writes_what_it_found(monkeypatch, flags, tmp_path, squad):
    test = tmp_path / "test.json"
    made = paragraphs(3, seed=7, sentences=6)
    for paragraph in made:
        for entry in paragraph["qas"]:
            del entry["answers"]
    test.write_text(json.dumps(squad_of(made)))
    train = squad / "train-v1.1.json"
    argv = flags(
        dataset_name=None, train_file=train, validation_file=train, test_file=test, task_name="squad", do_predict=True,
        max_steps=150, max_train_samples=6, max_eval_samples=6, save_model=True, n_best_size=5, logging_steps=50,
    )  # fmt: skip
    assert script(monkeypatch, argv) == 0
    out = tmp_path / "out"
    record = json.loads((out / "squad-seed5.json").read_text())
    metrics = record["metrics"]["validation"]
    assert record["headline"] == {"metric": "f1", "split": "validation", "value": metrics["f1"]}
    assert metrics["exact_match"] >= 80  # of questions that it was trained on
    assert record["examples"]["train"] | {"sha256": 0, "file": 0} == {
        "used": 6, "official": 87_599, "subset": True, "skipped": 0, "sha256": 0, "file": 0, "misplaced_answers": 0,
    }  # fmt: skip
    assert record["settings"]["doc_stride"] == 8 and record["windows"]["train"] > 6
    assert record["checkpoint"]["name"] == "toy/checkpoint-10"
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_f1"] == metrics["f1"] and json.loads((out / "all_results.json").read_text())["train_loss"]
    golds = {row.id: row for row in prepare_rows(train)}
    for name, answer in json.loads((out / "eval_predictions.json").read_text()).items():
        assert answer in golds[name].context
    nbest = json.loads((out / "eval_nbest_predictions.json").read_text())
    assert len(nbest) == 6 and all(1 <= len(entries) <= 5 for entries in nbest.values())
    assert len(json.loads((out / "predict_predictions.json").read_text())) == 6
    assert not list(out.glob("*null_odds*")) and not list(out.glob("checkpoint-*"))
    from transformers import AutoModelForQuestionAnswering

    assert AutoModelForQuestionAnswering.from_pretrained(out).config.num_labels == 2


def test_an_evaluation_during_training_logs_exact_match_and_f1(work):
    for negatives in (None, True):
        job = work(eval_strategy="steps", eval_steps=3, version_2_with_negative=negatives)
        job.trainer.train()
        logged = [entry for entry in job.trainer.state.log_history if "eval_loss" in entry]
        assert [entry["step"] for entry in logged] == [3, 6]
        scores = {f"eval_{name}": value for name, value in job.evaluate()["validation"].items()}
        assert scores.items() <= logged[-1].items()
        assert {"eval_f1", "eval_exact" if negatives else "eval_exact_match"} <= set(scores)


def prepare_rows(file):
    from recipe.finetune.qa.squad import read_file

    return read_file(file).rows


def test_negatives(monkeypatch, flags, tmp_path):
    folder = write_squad(tmp_path / "v2", train=4, dev=4, negatives=True)
    assert script(monkeypatch, flags(dataset_name=folder, version_2_with_negative=True)) == 0
    metrics = json.loads((tmp_path / "out" / "squad_v2-seed5.json").read_text())["metrics"]["validation"]
    assert {"exact", "f1", "HasAns_f1", "NoAns_f1", "best_f1", "best_f1_thresh", "total"} <= set(metrics)
    assert metrics["best_f1"] >= metrics["f1"] and metrics["HasAns_total"] == metrics["NoAns_total"] == 4
    odds = json.loads((tmp_path / "out" / "eval_null_odds.json").read_text())
    answers = json.loads((tmp_path / "out" / "eval_predictions.json").read_text())
    assert all((answers[name] == "") == (value > 0) for name, value in odds.items())
    # With a threshold that no odds exceed every question is answered.
    argv = flags(dataset_name=folder, version_2_with_negative=True, null_score_diff_threshold=1e6)
    assert script(monkeypatch, argv) == 0
    assert json.loads((tmp_path / "out" / "squad_v2-seed5.json").read_text())["metrics"]["validation"]["NoAns_f1"] == 0
    with pytest.raises(UserError, match="pass --version_2_with_negative"):
        script(monkeypatch, flags(dataset_name=folder))


def test_misplaced_answers_are_counted_shown_and_skipped(monkeypatch, flags, tmp_path, capsys):
    folder = write_squad(tmp_path / "bad", train=4, dev=2)
    content = json.loads((folder / "train-v1.1.json").read_text())
    for entry in content["data"][0]["paragraphs"][0]["qas"] + content["data"][1]["paragraphs"][1]["qas"]:
        entry["answers"][0]["answer_start"] += 2
    (folder / "train-v1.1.json").write_text(json.dumps(content))
    assert script(monkeypatch, flags(dataset_name=folder, max_steps=1)) == 0
    said = capsys.readouterr().out
    assert "4 answers aren't in their context; 4 questions are skipped" in said
    assert said.count('answer "') == 3 and "data[0].paragraphs[0].qas[0] (q0-0-0)" in said
    train = json.loads((tmp_path / "out" / "squad-seed5.json").read_text())["examples"]["train"]
    assert (train["used"], train["skipped"], train["misplaced_answers"]) == (4, 4, 4)


def test_wordpiece_and_two_types(work, tmp_path, wordpiece):
    config = BertConfig(vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=64)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    wordpiece.save_pretrained(tmp_path / "bert")
    job = work(model_name_or_path=tmp_path / "bert", doc_stride=4, max_seq_length=64)
    batch = job.examples("train").__getitems__([0, 1])
    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    job.trainer.train()
    assert 0 <= job.evaluate()["validation"]["f1"] <= 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": None, "do_eval": None}, "found none of --do_train"),
        ({"dataset_name": "/nowhere"}, "found no folder /nowhere"),
        ({"train_file": "x.json"}, "--dataset_name beside --train_file"),
        ({"model_name_or_path": None}, "found no --model_name_or_path"),
        ({"max_seq_length": 100}, "--max_seq_length is 100, .* has positions for 64"),
        ({"doc_stride": 40}, "--doc_stride 40 with --max_seq_length 48, expected 0 to 24"),
        ({"n_best_size": 0}, "found --n_best_size 0"),
        ({"label_smoothing_factor": 0.1}, "found --label_smoothing_factor 0.1"),
        ({"task_name": "squad_v2"}, "it goes with --version_2_with_negative"),
        ({"do_predict": True}, "has no test split"),
        ({"null_score_treshold": 1}, "unknown flag --null_score_treshold: did you mean --null_score_diff_threshold"),
        ({"dataset_name": None, "validation_file": "none.json"}, r"cannot read none.json: No such file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(monkeypatch, flags, changes, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        script(monkeypatch, flags(**changes))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_process_that_is_stopped_then_killed_ends_with_the_same_bits(flags, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 5, "max_steps": 150}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def begin(**more):
        command = [sys.executable, "run_qa.py", *flags(**settings, **more)]
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)

    def after_a_checkpoint(process, beyond):
        end = time.monotonic() + 200
        while not (steps := [step_of(f) for f in checkpoints(tmp_path / "out") if step_of(f) > beyond]):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        return max(steps)

    process = begin()
    seen = after_a_checkpoint(process, 0)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == INTERRUPTED_EXIT_CODE and "run the same command again" in said
    process = begin()
    after_a_checkpoint(process, seen + 20)
    process.kill()
    process.communicate()
    for more in ({}, {"output_dir": tmp_path / "whole"}):
        process = begin(**more)
        process.communicate(timeout=250)
        assert process.returncode == 0
    first, second = (load_file(tmp_path / name / "checkpoint-150" / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "out/eval_predictions.json").read_bytes() == (
        tmp_path / "whole/eval_predictions.json"
    ).read_bytes()
