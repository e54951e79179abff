"""recipe.finetune.glue.finetuning, recipe.finetune.starting_point and run_glue.py: the exact loss, what a record says, and what is refused."""

import json
import shutil
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from glue_toys import as_flags, toy_checkpoint, toy_run, toy_tokenizer, write_glue
from ranks import run_ranks
from safetensors.torch import load_file, save_file
from toy import config_settings
from transformers import AutoConfig, AutoModelForMaskedLM, TrainerCallback

import run_glue
from recipe.cli.parser import parse
from recipe.finetune.finetuning import train_batches
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.glue.finetuning import prepare
from recipe.programs import glue as program
from recipe.system.errors import UserError
from recipe.train.trainer import NonFiniteError

CONFIG = "configs/roberta_tiny.json"


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"), rows=22, dev=9, tests=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("runs") / "toy", steps=(10,))


@pytest.fixture
def flags(glue, run, tmp_path):
    """The command line of a small job, changed by key=value; True stands alone, None takes the flag away."""

    def make(**changes):
        settings = {
            "model_name_or_path": run / "checkpoint-10",
            "task_name": "rte",
            "glue_data": glue,
            "do_train": True,
            "do_eval": True,
            "output_dir": tmp_path / "out",
            "prepared_dir": tmp_path / "prepared",
            "max_seq_length": 48,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "disable_tqdm": "true",
            "use_cpu": "true",
            "seed": 5,
        } | changes
        return as_flags(settings)

    return make


@pytest.fixture
def work(flags):
    return lambda **changes: prepare(*parse((GlueArguments, FineTuneArguments), flags(**changes)))


def script(monkeypatch, argv):
    monkeypatch.setattr(sys, "argv", ["run_glue.py", *argv])
    return run_glue.main()


class Norms(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.seen.append((logs["loss"], float(logs["grad_norm"])))


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "learning_rate" in logs:
            self.seen.append(logs["learning_rate"])


@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_law_1_no_cut_of_the_batch_changes_a_step(work, task):
    """22 examples in steps of 8: the last step of each epoch has 6 and leaves micro-batches short or empty."""
    curves, weights = [], []
    for micro, accumulation in ((8, 1), (4, 2), (1, 8)):
        job = work(
            task_name=task,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-4,
        )
        norms = Norms()
        job.trainer.add_callback(norms)
        job.trainer.train()
        curves.append(norms.seen)
        weights.append(torch.cat([p.detach().flatten() for p in job.trainer.model.parameters()]))
    assert len(curves[0]) == 6
    for curve, final in zip(curves[1:], weights[1:], strict=True):
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5)
        torch.testing.assert_close(final, weights[0], rtol=1e-5, atol=1e-6)


def test_law_1_two_processes_take_the_steps_of_one_and_write_its_files(monkeypatch, flags, tmp_path):
    """Nobody passes --use_cpu."""
    settings = {
        "task_name": "mnli",
        "learning_rate": 1e-4,
        "do_predict": True,
        "save_strategy": "epoch",
        "use_cpu": None,
    }
    original = program.prepare

    def steps(name, micro) -> list:
        norms = Norms()

        def watched(*arguments):
            job = original(*arguments)
            job.trainer.add_callback(norms)
            return job

        monkeypatch.setattr(program, "prepare", watched)
        argv = flags(**settings, per_device_train_batch_size=micro, output_dir=tmp_path / name)
        assert script(monkeypatch, argv) == 0
        return norms.seen

    both = run_ranks(2, lambda rank: steps("two", 4), tmp_path / "ranks")
    alone = steps("one", 8)
    assert len(alone) == 6
    for seen in both:
        np.testing.assert_allclose(seen, alone, rtol=1e-5)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1] and {"mnli-seed5.json", "MNLI-m.tsv", "run.json", "checkpoint-6"} <= files[0]
    records = [json.loads((tmp_path / name / "mnli-seed5.json").read_text()) for name in ("one", "two")]
    first, second = (record["metrics"]["validation_matched"] for record in records)
    assert first == pytest.approx(second, abs=1e-5)
    assert (records[0]["settings"]["devices"], records[1]["settings"]["devices"]) == (1, 2)


def test_a_resume_is_compared_with_the_run_that_the_checkpoint_belongs_to(monkeypatch, flags, tmp_path, capsys):
    saved = {"save_strategy": "epoch", "do_eval": None}
    assert script(monkeypatch, flags(**saved)) == 0
    assert script(monkeypatch, flags(**saved)) == 0
    assert "resuming from" in capsys.readouterr().out
    named = {"resume_from_checkpoint": tmp_path / "out" / "checkpoint-3", "output_dir": tmp_path / "more"}
    with pytest.raises(UserError, match=r"out was begun with learning_rate 0.01, now it is 0.1: use the former or"):
        script(monkeypatch, flags(**saved, **named, learning_rate=0.1))
    with pytest.raises(UserError, match=r"cannot resume from .*: it has no manifest.json"):
        script(monkeypatch, flags(**saved, **named | {"resume_from_checkpoint": tmp_path / "out"}))
    assert not (tmp_path / "more").exists()
    with pytest.raises(UserError, match=r"begun with task rte, now it is cola"):
        script(monkeypatch, flags(**saved, task_name="cola"))
    assert script(monkeypatch, flags(**saved, **named, learning_rate=0.1, allow_changed="learning_rate")) == 0
    logged = json.loads((tmp_path / "more" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    # Six steps, of which one warms up (6 %): 0.1 falls to 0 over the other five.
    assert [entry["learning_rate"] for entry in logged if entry["step"] > 3] == pytest.approx([0.06, 0.04, 0.02])


def test_a_modernbert_is_fine_tuned_by_the_same_command_and_laws(work, tmp_path):
    torch.manual_seed(0)
    checkpoint, config = tmp_path / "modern", AutoConfig.for_model(**config_settings("modernbert"))
    saved = AutoModelForMaskedLM.from_config(config)
    saved.save_pretrained(checkpoint)
    toy_tokenizer().save_pretrained(checkpoint)
    curves = []
    for micro, accumulation in ((8, 1), (2, 4)):
        cut = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
        job, norms = work(model_name_or_path=checkpoint, **cut, learning_rate=1e-4), Norms()
        assert torch.equal(job.trainer.model.model.layers[1].mlp.Wi.weight, saved.model.layers[1].mlp.Wi.weight)
        job.trainer.add_callback(norms)
        job.trainer.train()
        curves.append(norms.seen)
    assert len(curves[0]) == 6
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    assert 0 <= job.record(job.evaluate())["headline"]["value"] <= 1


def test_predictions_are_in_the_order_of_the_rows(work):
    job = work(per_device_eval_batch_size=2)
    data = job.examples("validation")
    together = job.trainer.predict(data).predictions
    job.trainer.model.eval()
    for row in range(len(data)):
        with torch.no_grad():
            alone = job.trainer.model(**{k: v for k, v in data[row].items() if k != "labels"})["logits"]
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_the_same_seed_gives_the_same_score_and_another_another_head(work):
    def logits(seed):
        job = work(seed=seed)
        job.trainer.train()
        return job.trainer.predict(job.examples("validation")).predictions

    assert np.array_equal(logits(5), logits(5))
    assert not np.array_equal(logits(5), logits(6))


def test_another_seed_sees_the_rows_in_another_order(work):
    def order(**seeds):
        job = work(**seeds)
        return [rows for rows in train_batches(job.trainer.train_dataset, job.args, lambda: 0)]

    assert order(seed=5) == order(seed=5) == order(seed=6, data_seed=5) != order(seed=6)


def test_record_of_run_glue(monkeypatch, flags, tmp_path, run):
    assert script(monkeypatch, flags(max_train_samples=20, do_predict=True)) == 0
    record = json.loads((tmp_path / "out" / "rte-seed5.json").read_text())
    assert record["task"] == "rte" and record["seed"] == 5 and record["started_from_mnli"] is None
    assert record["headline"]["metric"] == "accuracy" and record["headline"]["split"] == "validation"
    assert record["headline"]["value"] == record["metrics"]["validation"]["accuracy"]
    assert record["examples"]["train"] | {"sha256": 0, "file": 0} == {
        "used": 20, "official": 2490, "subset": True, "skipped": 0, "sha256": 0, "file": 0,
    }  # fmt: skip
    checkpoint = record["checkpoint"]
    assert (checkpoint["name"], checkpoint["step"], checkpoint["tokens_seen"]) == ("toy/checkpoint-10", 10, 10 * 4 * 16)
    manifest = json.loads((run / "checkpoint-10" / "manifest.json").read_text())
    assert checkpoint["sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert record["settings"]["max_steps"] == 6 and record["settings"]["learning_rate"] == 1e-2
    assert record["versions"]["torch"] == version("torch")
    assert (tmp_path / "out" / "all_results.json").exists() and (tmp_path / "out" / "eval_results.json").exists()
    predicted = (tmp_path / "out" / "RTE.tsv").read_text().splitlines()
    assert predicted[0] == "index\tprediction" and len(predicted) == 6
    assert not list((tmp_path / "out").glob("checkpoint-*"))


class Logs(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, logs))


def test_an_evaluation_during_training_logs_the_task_s_metrics(work, capsys):
    """At each epoch, not the loss alone; at the last step they are what the evaluation afterwards says."""
    job, logs = work(task_name="mrpc", eval_strategy="epoch"), Logs()
    job.trainer.add_callback(logs)
    job.trainer.train()
    evaluations = {step: entry for step, entry in logs.seen if "eval_loss" in entry}
    assert list(evaluations) == [3, 6] and all({"eval_accuracy", "eval_f1"} <= set(e) for e in evaluations.values())
    scores = job.evaluate()["validation"]
    assert {f"eval_{name}": value for name, value in scores.items()}.items() <= evaluations[6].items()
    assert "step 6/6  eval loss " in capsys.readouterr().out


def test_results_have_the_names_that_programs_read(monkeypatch, flags, tmp_path, glue):
    script(monkeypatch, flags(task_name="mrpc", do_predict=True, max_train_samples=20))
    out = tmp_path / "out"
    results = {name: json.loads((out / f"{name}_results.json").read_text()) for name in ("train", "eval", "all")}
    assert results["all"] == results["train"] | results["eval"]
    evaluated = results["eval"]
    assert evaluated["eval_combined_score"] == pytest.approx((evaluated["eval_accuracy"] + evaluated["eval_f1"]) / 2)
    assert (results["train"]["train_samples"], evaluated["eval_samples"]) == (20, 9)
    assert (out / "predict_results_mrpc.txt").read_text().startswith("index\tprediction\n0\t")
    (out / "all_results.json").write_text("[")  # damaged: written anew
    halves = tmp_path / "glue" / "MNLI"
    shutil.copytree(glue / "MNLI", halves)
    shutil.copy(halves / "dev_matched.tsv", halves / "dev_mismatched.tsv")
    script(monkeypatch, flags(task_name="mnli", glue_data=tmp_path / "glue", max_steps=1, save_model="false"))
    both = json.loads((out / "all_results.json").read_text())
    assert both["eval_accuracy"] == both["eval_accuracy_mm"] and both["eval_samples_mm"] == 9


def test_settings_default_to_the_task(work):
    job = work(task_name="cola", per_device_train_batch_size=None, learning_rate=None, num_train_epochs=None)
    args = job.args
    assert (args.per_device_train_batch_size, args.learning_rate, args.num_train_epochs) == (32, 5e-5, 10)
    halved = work(task_name="cola", per_device_train_batch_size=None, gradient_accumulation_steps=2)
    assert halved.args.per_device_train_batch_size == 16
    with pytest.raises(UserError, match="batch of 32 doesn't divide by 3"):
        work(task_name="cola", per_device_train_batch_size=None, gradient_accumulation_steps=3)


def test_both_halves_of_mnli_and_ax(monkeypatch, flags, tmp_path, glue):
    other = tmp_path / "glue"
    shutil.copytree(glue / "MNLI", other / "MNLI")
    shutil.copytree(glue / "AX", other / "AX")
    shutil.copy(other / "MNLI" / "dev_matched.tsv", other / "MNLI" / "dev_mismatched.tsv")
    script(monkeypatch, flags(task_name="mnli", glue_data=other, save_model=True, max_eval_samples=6))
    metrics = json.loads((tmp_path / "out" / "mnli-seed5.json").read_text())["metrics"]
    assert metrics["validation_matched"] == metrics["validation_mismatched"]
    predict = flags(
        task_name="ax", glue_data=other, do_train=None, do_eval=None, do_predict=True,
        model_name_or_path=tmp_path / "out",
    )  # fmt: skip
    assert script(monkeypatch, predict) == 0
    lines = (tmp_path / "out" / "AX.tsv").read_text().splitlines()
    assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}


def test_data_of_ones_own(monkeypatch, flags, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "cat sees dog,good\nbird hears,bad\n" * 8)
    argv = flags(
        task_name=None, glue_data=None, train_file=tmp_path / "t.csv", validation_file=tmp_path / "t.csv",
        num_train_epochs=20,
    )  # fmt: skip
    assert script(monkeypatch, argv) == 0
    record = json.loads((tmp_path / "out" / "t.csv-seed5.json").read_text())
    assert record["metrics"]["validation"]["accuracy"] == 1.0  # it does learn


def test_random_weights_are_a_baseline(work, run, tmp_path):
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps({"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 1,
                                  "num_attention_heads": 2, "intermediate_size": 16,
                                  "max_position_embeddings": 66}))  # fmt: skip
    name = f"random:{config}"
    job = work(model_name_or_path=name, tokenizer_name=run / "checkpoint-10")
    assert (job.origin.step, job.origin.tokens_seen, job.origin.sha256) == (0, 0, None)
    first = job.trainer.model.base_model.embeddings.word_embeddings.weight
    again = work(model_name_or_path=name, tokenizer_name=run / "checkpoint-10")
    other = work(model_name_or_path=name, tokenizer_name=run / "checkpoint-10", seed=6)
    assert torch.equal(first, again.trainer.model.base_model.embeddings.word_embeddings.weight)
    assert not torch.equal(first, other.trainer.model.base_model.embeddings.word_embeddings.weight)
    with pytest.raises(UserError, match="has no tokenizer: pass --tokenizer_name"):
        work(model_name_or_path=name)


def test_starting_from_the_mnli_model(work, tmp_path):
    mnli = work(task_name="mnli")
    mnli.trainer.train()
    mnli.trainer.model.save_pretrained(tmp_path / "mnli")
    for task, outputs in (("rte", 2), ("stsb", 1)):
        job = work(task_name=task, mnli_model=tmp_path / "mnli")
        ours, theirs = job.trainer.model, mnli.trainer.model
        assert torch.equal(
            ours.roberta.encoder.layer[1].output.dense.weight, theirs.roberta.encoder.layer[1].output.dense.weight
        )
        assert ours.classifier.out_proj.weight.shape == (outputs, 16)
        assert job.record({})["started_from_mnli"] == str(tmp_path / "mnli")


def copy_of(checkpoint, folder):
    shutil.copytree(checkpoint, folder)
    return folder


def test_only_whole_checkpoints(work, run, tmp_path):
    damaged = copy_of(run / "checkpoint-10", tmp_path / "checkpoint-10")
    (damaged / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"is damaged or incomplete: model.safetensors has 5 bytes"):
        work(model_name_or_path=damaged)
    (damaged / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"is damaged or incomplete: it has no manifest.json"):
        work(model_name_or_path=damaged)
    with pytest.raises(UserError, match="found no checkpoint at"):
        work(model_name_or_path=tmp_path / "nothing")


def test_missing_encoder_weights_are_not_drawn_in_silence(work, run, tmp_path):
    model = copy_of(run / "checkpoint-10", tmp_path / "model")
    (model / "manifest.json").unlink()
    weights = load_file(model / "model.safetensors")
    del weights["roberta.encoder.layer.1.output.dense.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for encoder layer 1 of a roberta model, which would be drawn"):
        work(model_name_or_path=model)


def test_a_tokenizer_that_does_not_fit(work, run, tmp_path):
    from recipe.data.tokenizer import train_tokenizer

    texts = ["one two three four five six seven eight"] * 9
    train_tokenizer(lambda: texts, vocab_size=280).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="isn't the one that"):
        work(tokenizer_name=tmp_path / "other")
    bare = copy_of(run / "checkpoint-10", tmp_path / "bare")
    for name in ("manifest.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    bigger = train_tokenizer(lambda: [" ".join(str(n) for n in range(3000))] * 3, vocab_size=500)
    bigger.save_pretrained(tmp_path / "bigger")
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, .* has 320 embeddings"):
        work(model_name_or_path=bare, tokenizer_name=tmp_path / "bigger")


def test_nan_weights_are_an_error_and_no_score(monkeypatch, flags, run, tmp_path, capsys):
    model = copy_of(run / "checkpoint-10", tmp_path / "model")
    (model / "manifest.json").unlink()
    weights = {
        name: torch.full_like(value, float("nan")) for name, value in load_file(model / "model.safetensors").items()
    }
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert script(monkeypatch, flags(model_name_or_path=model)) == 3
    assert script(monkeypatch, flags(model_name_or_path=model, do_train=None)) == 3
    assert "not finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*seed*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_name": "sst3"}, "unknown task 'sst3'"),
        ({"task_name": None}, "found no task"),
        ({"task_name": "ax"}, "AX has only a test file"),
        ({"max_seq_length": 100}, "--max_seq_length is 100, .* has positions for 64"),
        ({"do_train": None, "do_eval": None}, "found none of --do_train"),
        ({"model_name_or_path": None}, "found no --model_name_or_path"),
        ({"load_best_model_at_end": "true"}, "the score is that of the last step"),
        ({"metric_for_best_model": "f1"}, "found --metric_for_best_model f1: the score is that of the last step"),
        ({"save_strategy": "best"}, "found --save_strategy best: the score is that of the last step"),
        ({"text_columns": "a"}, "--text_columns, --label_column or --regression beside --task_name"),
        ({"csv_quoting": "some"}, "found --csv_quoting some, expected one of"),
        ({"task_name": None, "validation_file": "v.csv"}, "--do_train and files of your own, but no --train_file"),
        ({"task_name": None, "train_file": "v.csv"}, "--do_eval and files of your own, but no --validation_file"),
        ({"task_name": None, "train_file": "t.csv", "text_columns": "a,b,c"}, "found 3 --text_columns, expected one or"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "warmup_stable_decay with no num_decay_steps, expected steps"),
        ({"lr_scheduler_kwargs": '{"x": 1}', "lr_scheduler_type": "cosine"}, "unexpected keyword argument 'x'"),
        ({"max_steps": 3, "warmup_steps": 5}, "warmup_steps 5, expected at most the 3 steps of the run"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size 0, expected at least 1"),
        ({"max_train_samples": 0}, "max_train_samples 0, expected at least 1"),
        ({"fp16": "true"}, "found --fp16 without a GPU: use --bf16"),
        ({"push_to_hub": "true"}, "found --push_to_hub, and the Hugging Face hub cannot be reached from here: leave it out"),
        ({"glue_data": "/nowhere"}, "found no folder /nowhere"),
        ({"train_file": "x.csv"}, "--task_name beside --train_file"),
        ({"learning_rat": 1}, "unknown flag --learning_rat: did you mean --learning_rate"),
        ({"model_name_or_path": f"random:{CONFIG}"}, "has no tokenizer"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(monkeypatch, flags, changes, message):
    with pytest.raises(UserError, match=message) as error:
        script(monkeypatch, flags(**changes))
    assert "\n" not in str(error.value)


def test_the_checkpoint_s_own_folder_is_no_output(work, run, monkeypatch, flags):
    with pytest.raises(UserError, match=r"--output_dir .*checkpoint-10, which is the checkpoint's own folder"):
        script(monkeypatch, flags(output_dir=run / "checkpoint-10"))


def test_warm_up_is_six_percent_unless_told(work):
    assert work().args.get_warmup_steps(200) == 12
    job, rates = work(max_steps=50, learning_rate=1.0, num_train_epochs=None), Rates()
    job.trainer.add_callback(rates)
    job.trainer.train()
    assert rates.seen[:3] == pytest.approx([0.0, 1 / 3, 2 / 3]) and max(rates.seen) == rates.seen[3] == 1.0


def test_a_split_that_is_needed_and_missing(work, tmp_path, glue):
    shutil.copytree(glue / "RTE", tmp_path / "some" / "RTE")
    (tmp_path / "some" / "RTE" / "dev.tsv").unlink()
    with pytest.raises(UserError, match="has no validation split of rte"):
        work(glue_data=tmp_path / "some")


def test_checkpoints_of_a_bert(work, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=64, pad_token_id=1)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    toy_tokenizer().save_pretrained(tmp_path / "bert")
    job = work(model_name_or_path=tmp_path / "bert")
    assert "token_type_ids" in job.examples("train").__getitems__([0, 1])
    job.trainer.train()
    assert job.evaluate()["validation"]["accuracy"] <= 1


def test_toy_checkpoints_are_whole(tmp_path):
    from recipe.system.manifest import damage

    assert damage(toy_checkpoint(tmp_path / "r", 3)) is None
    assert issubclass(NonFiniteError, FloatingPointError)
