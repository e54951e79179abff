"""recipe.finetune.glue.labels on whole models: what a checkpoint's outputs are called decides what they mean, not their order."""

import json
import shutil
import sys

import pytest
import torch
from glue_toys import NOUNS, as_flags, columns, toy_run, write_tsv
from safetensors.torch import load_file, save_file
from toy import config_settings
from transformers import AutoConfig, AutoModelForSequenceClassification

import run_glue
from recipe.finetune.glue.labels import output_layer, reorder_outputs
from recipe.system.errors import UserError

NAMES = ("entailment", "neutral", "contradiction")
HEADER = "index sentence1 sentence2 gold_label"
OUTPUT = "classifier.out_proj"


def pairs(count):
    """Pairs whose noun tells their class."""
    return [(f"{NOUNS[n % 3]} " * 6, NOUNS[n % 3], n % 3) for n in range(count)]


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    for stem, count in (("train", 24), ("dev_matched", 9)):
        rows = [[str(n), a, b, NAMES[y]] for n, (a, b, y) in enumerate(pairs(count))]
        write_tsv(folder / "MNLI" / f"{stem}.tsv", HEADER, rows)
    tests = [[str(n), a, b] for n, (a, b, _) in enumerate(pairs(6))]
    write_tsv(folder / "MNLI" / "test_matched.tsv", HEADER.removesuffix(" gold_label"), tests)
    assert columns(HEADER)[-1] == "gold_label"
    return folder


def call(argv):
    before, sys.argv = sys.argv, ["run_glue.py", *argv]
    try:
        return run_glue.main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def trained(glue, tmp_path_factory):
    """A checkpoint that knows its three classes."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "model_name_or_path": toy_run(folder / "toy", steps=(10,)) / "checkpoint-10", "task_name": "mnli",
        "glue_data": glue, "do_train": True, "do_eval": True, "output_dir": folder / "model",
        "prepared_dir": folder / "prepared", "max_seq_length": 48, "per_device_train_batch_size": 8,
        "num_train_epochs": 20, "learning_rate": 1e-2, "seed": 1, "disable_tqdm": "true", "use_cpu": "true",
    }  # fmt: skip
    assert call(as_flags(settings)) == 0
    assert json.loads((folder / "model" / "eval_results.json").read_text())["eval_accuracy"] > 0.6
    return folder / "model"


@pytest.fixture
def accuracy(trained):
    """What it scores; with two classes of three in each other's place it would be half of that, or none."""
    return json.loads((trained / "eval_results.json").read_text())["eval_accuracy"]


@pytest.fixture
def renamed(trained, tmp_path):
    """A copy of the checkpoint whose output n is what was output order[n], called names[n]."""

    def make(names, order=(0, 1, 2)):
        model = shutil.copytree(trained, tmp_path / "renamed", dirs_exist_ok=True)
        weights = load_file(model / "model.safetensors")
        for part in ("weight", "bias"):
            weights[f"{OUTPUT}.{part}"] = weights[f"{OUTPUT}.{part}"][list(order)].contiguous()
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((model / "config.json").read_text())
        config["id2label"] = {str(n): name for n, name in enumerate(names)}
        config["label2id"] = {name: n for n, name in enumerate(names)}
        (model / "config.json").write_text(json.dumps(config))
        return model

    return make


@pytest.fixture
def evaluate(glue, tmp_path):
    """Calls run_glue.py on a model; returns its eval_results.json, or the file that `read` names."""

    def run(model, read="eval_results.json", **changes):
        settings = {
            "model_name_or_path": model, "task_name": "mnli", "glue_data": glue, "do_eval": True,
            "output_dir": tmp_path / "out", "prepared_dir": tmp_path / "prepared", "max_seq_length": 48,
            "disable_tqdm": "true", "use_cpu": "true",
        } | changes  # fmt: skip
        assert call(as_flags(settings)) == 0
        text = (tmp_path / "out" / read).read_text()
        return json.loads(text) if read.endswith("json") else text

    return run


ORDER = (2, 0, 1)
PERMUTED = tuple(NAMES[n] for n in ORDER)
OWN = {"task_name": None, "glue_data": None}


@pytest.mark.parametrize("names", [PERMUTED, tuple(name.upper() for name in PERMUTED)])
def test_outputs_in_another_order_give_the_same_score(renamed, evaluate, names, accuracy):
    """Found: accuracy 0.36 in place of 1.0."""
    assert evaluate(renamed(names, ORDER))["eval_accuracy"] == accuracy


def test_predictions_go_by_name_too(trained, renamed, evaluate):
    asked = {"read": "predict_results_mnli.txt", "do_eval": None, "do_predict": True}
    before, after = evaluate(trained, **asked), evaluate(renamed(PERMUTED, ORDER), **asked)
    assert before == after and len({line.split("\t")[1] for line in after.splitlines()[1:]}) > 1


def test_files_of_ones_own_go_by_name(trained, renamed, evaluate, tmp_path):
    """A file with two of the three labels, the last ones: by number or by its own order they would be others."""
    rows = [f"{a},{b},{NAMES[y]}" for a, b, y in pairs(9) if y]
    (tmp_path / "dev.csv").write_text("\n".join(["sentence1,sentence2,label", *rows]) + "\n")
    tests = [f"x{n},{a},{b}" for n, (a, b, _) in enumerate(pairs(6))]
    (tmp_path / "test.csv").write_text("\n".join(["id,sentence1,sentence2", *tests]) + "\n")
    model = renamed(PERMUTED, ORDER)
    results = [evaluate(folder, **OWN, validation_file=tmp_path / "dev.csv") for folder in (trained, model)]
    assert results[0]["eval_accuracy"] == results[1]["eval_accuracy"] >= 0.5 and results[1]["eval_samples"] == 6
    asked = {"read": "predict_results_None.txt", "do_eval": None, "do_predict": True}
    predicted = [evaluate(folder, **OWN, test_file=tmp_path / "test.csv", **asked) for folder in (trained, model)]
    assert predicted[0] == predicted[1] and predicted[0].splitlines()[1].startswith("x0\t")


def test_training_goes_on_from_outputs_in_another_order(renamed, evaluate, accuracy):
    trained_on = {"do_train": True, "max_steps": 1, "learning_rate": 1e-6, "save_model": "false"}
    assert evaluate(renamed(PERMUTED, ORDER), **trained_on)["eval_accuracy"] == accuracy


def test_labels_without_names_go_by_number_and_it_is_said(renamed, evaluate, accuracy, capsys):
    assert evaluate(renamed(("LABEL_0", "LABEL_1", "LABEL_2")))["eval_accuracy"] == accuracy
    assert "matched by number to entailment, neutral, contradiction" in capsys.readouterr().out


def test_other_labels_are_refused_with_both_lists(renamed, evaluate, trained, tmp_path):
    both = r"has the labels yes, no, maybe, the data the labels entailment, neutral, contradiction: expected the same"
    with pytest.raises(UserError, match=both):
        evaluate(renamed(("yes", "no", "maybe")))
    for task in ("rte", "stsb"):
        rows = [["0", "a", "b", "0"], ["1", "a", "b", "1"]]
        folder, header = ("RTE", "index sentence1 sentence2 label") if task == "rte" else (
            "STS-B", "index sentence1 sentence2 score")  # fmt: skip
        write_tsv(tmp_path / "other" / folder / "dev.tsv", header, rows)
        with pytest.raises(UserError, match="has the labels entailment, neutral, contradiction, the data"):
            evaluate(trained, task_name=task, glue_data=tmp_path / "other")


def test_other_labels_get_a_fresh_output_where_it_is_asked_for(renamed, evaluate, capsys):
    model = renamed(("yes", "no", "maybe"))
    assert evaluate(model, ignore_mismatched_sizes="true")["eval_accuracy"] < 1
    assert "has no output layer for these labels: its scores are those of a random one" in capsys.readouterr().out


def test_a_regression_is_no_classifier(trained, evaluate, tmp_path):
    model = shutil.copytree(trained, tmp_path / "scores")
    config = json.loads((model / "config.json").read_text()) | {
        "problem_type": "regression",
        "id2label": {"0": "LABEL_0"},
    }
    (model / "config.json").write_text(json.dumps(config | {"label2id": {"LABEL_0": 0}}))
    with pytest.raises(UserError, match="has one score, the data the labels entailment, neutral, contradiction"):
        evaluate(model)


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_outputs_move_with_their_weights_and_biases(family):
    config = AutoConfig.for_model(**config_settings(family, 64), num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    output_layer(model).bias.data = torch.tensor([1.0, 2.0, 4.0])
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    reorder_outputs(model, [2, 0, 1])
    assert torch.equal(model(input_ids=ids).logits, before[:, [2, 0, 1]])
