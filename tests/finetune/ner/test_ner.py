"""recipe.finetune.ner: words keep their labels through windows and tokenizers, the loss doesn't depend on how a batch is
cut, scores are those of entities, and a sweep shows them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from glue_toys import sweep_here, toy_run, toy_tokenizer
from torch.nn import functional
from toy import REPOSITORY

from recipe.compare.differences import compare
from recipe.data.tokenizer import train_tokenizer
from recipe.finetune.examples import IGNORED
from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments
from recipe.finetune.ner.finetuning import outcomes_of, prepare, score
from recipe.finetune.ner.sentences import Sentences, read_file, read_folder
from recipe.finetune.ner.word_windows import TaggedExamples, cut_windows
from recipe.finetune.outcomes import metric_of
from recipe.finetune.results import read_results
from recipe.system.errors import UserError

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "seven",
    "naïve",
    "dogs",
    "barked",
    "loudly",
    "at",
    "Ann-Marie",
    "in",
    "Sao_Paulo",
]


def toy_sentences(count: int, seed: int = 0) -> Sentences:
    """Sentences in which names, which begin with a capital, are entities; some have two words."""
    generator = np.random.default_rng(seed)
    words, labels = [], []
    for _ in range(count):
        sentence, tags = [], []
        for word in generator.choice(WORDS, size=generator.integers(3, 12)):
            name = word[0].isupper()
            sentence += [str(word), "Smith"] if name and word.startswith("Ann") else [str(word)]
            tags += ["B-person", "I-person"] if name and word.startswith("Ann") else ["B-place" if name else "O"]
        words.append(tuple(sentence))
        labels.append(tuple(tags))
    return Sentences(tuple(words), tuple(labels), "toys")


def write_conll(file, sentences: Sentences) -> None:
    lines = ["-DOCSTART- O\n"]
    for words, labels in zip(sentences.words, sentences.labels, strict=True):
        lines.append("".join(f"{word}\tX\t{label}\n" for word, label in zip(words, labels, strict=True)))
    file.write_text("\n".join(lines))


def wordpiece():
    return train_tokenizer(lambda: [" ".join(WORDS)] * 9, vocab_size=200, kind="wordpiece")


# ---- words and windows


@pytest.mark.parametrize("length", [12, 64])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_each_word_is_labelled_once_and_perfect_logits_score_one(kind, length):
    tokenizer = toy_tokenizer() if kind == "bpe" else wordpiece()
    sentences = toy_sentences(30)
    windows = cut_windows(sentences, tokenizer, length, 4)
    assert np.diff(windows.ends, prepend=0).max() <= length and (length == 12) == (len(windows) > 40)
    labels = windows.labels(sentences, sentences.names, all_tokens=False)
    assert (labels != IGNORED).sum() == sum(map(len, sentences.words)) == (windows.word >= 0).sum()
    for token in np.flatnonzero(windows.word >= 0):
        word = sentences.words[windows.sentence[token]][windows.word[token]]
        assert word.startswith(tokenizer.decode([windows.ids[token]]).strip("# ")[:1])
    logits = np.eye(len(sentences.names))[np.where(labels == IGNORED, 0, labels)]
    predicted = windows.predicted(logits, sentences, sentences.names)
    assert score(sentences.labels, predicted)["f1"] == 1.0


def test_all_tokens_of_a_word_can_have_its_label():
    sentences = Sentences((("Ann-Marie", "sat"),), (("B-person", "O"),), "toys")
    names = ("O", "B-person", "I-person")
    windows = cut_windows(sentences, toy_tokenizer(), 32, 4)
    labels = windows.labels(sentences, names, all_tokens=True)
    spoken = [names[label] for label in labels[labels != IGNORED]]
    assert spoken[0] == "B-person" and set(spoken[1 : int(windows.inner.sum())]) == {"I-person"} and spoken[-1] == "O"


def test_scores_are_those_of_entities_and_of_resampled_sentences():
    actual = [["B-a", "I-a", "O"], ["B-b", "O"], ["O"]]
    predicted = [["B-a", "I-a", "O"], ["B-a", "O"], ["B-b"]]
    found = score(actual, predicted, each_kind=True)
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 3), 0.5) and found["f1"] == pytest.approx(0.4)
    assert found["accuracy"] == pytest.approx(4 / 6) and found["a_recall"] == 1.0
    assert metric_of("f1", outcomes_of(actual, predicted)) == pytest.approx(0.4)
    assert score([["O"]], [["O"]])["f1"] == 0.0


@pytest.mark.slow
def test_scores_are_those_of_seqeval():
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed: pip install seqeval")
    generator, names = np.random.default_rng(4), ("O", "O", "B-a", "I-a", "B-b", "I-b")
    for _ in range(300):
        lengths = generator.integers(1, 9, 4)
        actual, predicted = ([[str(name) for name in generator.choice(names, n)] for n in lengths] for _ in range(2))
        found = score(actual, predicted, each_kind=True)
        theirs = metrics.classification_report(actual, predicted, output_dict=True, zero_division=0)
        for kind, values in theirs.items():
            if kind in ("a", "b", "micro avg"):
                prefix = "" if kind == "micro avg" else f"{kind}_"
                for name, value in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
                    assert found[prefix + name] == pytest.approx(values[value])


# ---- files


def test_conll_files_json_lines_and_folders_are_read(tmp_path):
    sentences = toy_sentences(6)
    write_conll(tmp_path / "wnut17train.conll", sentences)
    write_conll(tmp_path / "emerging.dev.conll", sentences.first(2))
    rows = [
        {"tokens": words, "ner_tags": labels} for words, labels in zip(sentences.words, sentences.labels, strict=True)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_folder(tmp_path, ("tokens", "ner_tags"))
    assert {split: len(part) for split, part in found.items()} == {"train": 6, "validation": 2, "test": 6}
    assert found["train"].words == found["test"].words == sentences.words
    assert found["train"].labels == found["test"].labels == sentences.labels
    (tmp_path / "dev2.conll").write_text("cat\tO\n")
    with pytest.raises(UserError, match=r"has dev2.conll and emerging.dev.conll for validation"):
        read_folder(tmp_path, ("tokens", "ner_tags"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("cat\n", r"line 1: found 'cat', expected a word and its label"),
        ("cat O\ndog PERSON\n", r"line 2: found the label 'PERSON', expected O, B-... or I-..."),
        ("\n\n", "has no sentences"),
    ],
)
def test_mistakes_in_files_are_one_line(text, message, tmp_path):
    (tmp_path / "train.conll").write_text(text)
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / "train.conll", ("tokens", "ner_tags"))


# ---- training


def arguments(tmp_path, run, **more):
    write_conll(tmp_path / "train.conll", toy_sentences(24))
    write_conll(tmp_path / "dev.conll", toy_sentences(10, 1))
    data = NerArguments(model_name_or_path=str(run / "checkpoint-20"), train_file=str(tmp_path / "train.conll"),
                        validation_file=str(tmp_path / "dev.conll"), max_seq_length=24, doc_stride=4)  # fmt: skip
    settings = {"per_device_train_batch_size": 8, "max_steps": 2, "use_cpu": True, "report_to": "none", "seed": 3}
    args = NerTrainingArguments(output_dir=str(tmp_path / "out"), do_train=True, do_eval=True, **(settings | more))
    return data, args


def test_loss_and_gradient_do_not_depend_on_the_cut_of_a_batch(tmp_path):
    run = toy_run(tmp_path / "toy")
    found = []
    for cut in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}):
        tuning = prepare(*arguments(tmp_path, run, logging_steps=1, **cut), lambda line: None)
        tuning.trainer.train()
        found.append([(log["loss"], log["grad_norm"]) for log in tuning.trainer.state.log_history if "loss" in log])
    assert len(found[0]) == 2 and np.allclose(*found, atol=1e-5)


def test_the_eval_loss_is_the_mean_over_words(tmp_path):
    tuning = prepare(*arguments(tmp_path, toy_run(tmp_path / "toy"), per_device_eval_batch_size=3), lambda line: None)
    metrics = tuning.evaluate()["validation"]
    windows, rows = tuning.windows["validation"], tuning.rows["validation"]
    labels = windows.labels(rows, tuning.names, all_tokens=False)
    examples = TaggedExamples(windows, labels, pad_id=1, token_types=False)
    total = 0.0
    for row in range(len(examples)):
        batch = examples[row]
        with torch.no_grad():
            logits = tuning.trainer.model.eval()(input_ids=batch["input_ids"]).logits
        total += functional.cross_entropy(logits[0], batch["labels"][0], ignore_index=IGNORED, reduction="sum").item()
    assert metrics["loss"] == pytest.approx(total / sum(map(len, rows.words)), abs=1e-5)


def test_a_sweep_shows_and_compares_named_entities(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "toy")
    (tmp_path / "wnut").mkdir()
    write_conll(tmp_path / "wnut" / "train.conll", toy_sentences(24))
    write_conll(tmp_path / "wnut" / "dev.conll", toy_sentences(10, 1))
    code, _ = sweep_here(monkeypatch)([
        "--runs", str(run), "--tasks", "wnut17", "--seeds", "1", "2", "--dataset_name", str(tmp_path / "wnut"),
        "--max_steps", "2", "--max_seq_length", "32", "--doc_stride", "8", "--use_cpu", "true",
    ])  # fmt: skip
    assert code == 0 and len(read_results(run / "ner")) == 4
    assert "WNUT-17" in (run / "ner" / "ner.md").read_text()
    (row,) = compare(str(run / "checkpoint-10"), str(run / "checkpoint-20"))
    assert row.column == "WNUT-17" and row.found is not None and row.seeds == (2, 2)
    scores = [
        record["metrics"]["validation"]["f1"]
        for record in read_results(run / "ner")
        if "20" in record["checkpoint"]["name"]
    ]
    assert row.found.second == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.timeout(300)
def test_run_ner_writes_model_labels_and_scores_and_resumes(tmp_path):
    run = toy_run(tmp_path / "toy")
    arguments(tmp_path, run)
    command = [
        sys.executable, str(REPOSITORY / "run_ner.py"), "--model_name_or_path", str(run / "checkpoint-20"),
        "--train_file", str(tmp_path / "train.conll"), "--validation_file", str(tmp_path / "dev.conll"),
        "--test_file", str(tmp_path / "dev.conll"), "--do_train", "--do_eval", "--do_predict", "--max_steps", "3",
        "--max_seq_length", "24", "--doc_stride", "4", "--output_dir", str(tmp_path / "out"), "--use_cpu",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"eval_f1", "eval_loss", "eval_samples", "predict_f1", "train_samples"} <= results.keys()
    lines = (tmp_path / "out" / "predictions.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [len(words) for words in toy_sentences(10, 1).words]
    again = [*command[:2], "--model_name_or_path", str(tmp_path / "out"), "--validation_file", command[7],
             "--do_eval", "--max_seq_length", "24", "--doc_stride", "4", "--output_dir", str(tmp_path / "again"),
             "--use_cpu"]  # fmt: skip
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "again" / "all_results.json").read_text())
    assert found["eval_f1"] == results["eval_f1"] and found["eval_loss"] == pytest.approx(
        results["eval_loss"], abs=1e-6
    )
