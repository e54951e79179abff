"""recipe.finetune.qa.answer_spans: from scores to answers, by hand."""

import json

import numpy as np
import pytest

from recipe.finetune.qa.answer_spans import decode
from recipe.finetune.qa.squad import Answer, Question, Questions
from recipe.finetune.qa.windows import Windows

CONTEXT = "red fox sees dog"
WORDS = [(0, 3), (4, 7), (8, 12), (13, 16)]


def windows_of(*bodies, question=None):
    """Windows of <s> q q </s> and the words of CONTEXT that each body lists, </s>."""
    spans, ends, rows = [], [], []
    for number, body in enumerate(bodies):
        spans += [(-1, -1)] * 4 + [WORDS[word] for word in body] + [(-1, -1)]
        ends.append(len(spans))
        rows.append(question[number] if question else 0)
    tokens = np.zeros(len(spans), dtype=np.uint16)
    return Windows(tokens, tokens, np.array(ends), np.array(rows), np.array(spans, dtype=np.int32))


def scores(windows, start, end):
    logits = np.zeros((len(windows.ids), 2), dtype=np.float32)
    for column, given in enumerate((start, end)):
        for place, value in given.items():
            logits[place, column] = value
    return logits


def asked(count=1):
    return Questions([Question(f"q{n}", "?", CONTEXT, (Answer("fox", 4),)) for n in range(count)], "toys")


def test_the_best_span_of_the_context():
    windows = windows_of([0, 1, 2, 3])
    # The question's tokens score highest of all and are never part of an answer; nor does one end before it begins.
    logits = scores(windows, {1: 99, 5: 5, 7: 4}, {2: 99, 4: 6, 6: 3, 7: 2})
    made = decode(logits, windows, asked())
    assert made.answers == {"q0": "fox sees"} and made.null_odds is None  # 5 + 3
    texts = [entry["text"] for entry in made.nbest["q0"]]
    assert texts[:2] == ["fox sees", "fox sees dog"] and "red" in texts and len(texts) == 10
    assert sum(entry["probability"] for entry in made.nbest["q0"]) == pytest.approx(1)
    assert (made.nbest["q0"][0]["start_logit"], made.nbest["q0"][0]["end_logit"]) == (5, 3)


def test_length_and_breadth_of_the_search():
    windows = windows_of([0, 1, 2, 3])
    logits = scores(windows, {4: 9, 5: 1}, {7: 9, 5: 1})
    assert decode(logits, windows, asked()).answers["q0"] == CONTEXT
    assert decode(logits, windows, asked(), max_length=4).answers["q0"] == CONTEXT
    assert decode(logits, windows, asked(), max_length=3).answers["q0"] in ("fox sees dog", "red fox")
    assert len(decode(logits, windows, asked(), n_best=2).nbest["q0"]) == 2


def test_a_place_that_two_windows_share_is_listed_once_with_its_best_score():
    windows = windows_of([0, 1], [1, 2, 3])
    logits = scores(windows, {5: 2, 11: 3}, {5: 2, 11: 3})
    made = decode(logits, windows, asked())
    assert [entry["text"] for entry in made.nbest["q0"]].count("fox") == 1
    assert made.nbest["q0"][0]["text"] == "fox" and made.nbest["q0"][0]["start_logit"] == 3


def test_questions_do_not_mix():
    windows = windows_of([0, 1], [2, 3], [0, 1], question=[0, 1, 1])
    made = decode(scores(windows, {4: 9, 11: 1}, {4: 9, 11: 1}), windows, asked(2))
    assert made.answers == {"q0": "red", "q1": "sees"}


def test_no_answer_is_the_least_of_the_windows():
    """One window is sure that it holds nothing, the other that it does: the question has an answer."""
    windows = windows_of([0, 1], [2, 3])
    for first, second, odds, answer in ((9, -1, -2 - 4, "dog"), (-1, 9, -2 - 4, "dog"), (9, 3, 6 - 4, "")):
        logits = {0: first, 7: second, 12: 2}
        made = decode(scores(windows, logits, logits), windows, asked(), with_negative=True)
        assert made.null_odds["q0"] == pytest.approx(odds) and made.answers["q0"] == answer
        assert made.texts["q0"] == "dog"


def test_the_threshold():
    windows = windows_of([0, 1, 2, 3])
    logits = scores(windows, {0: 3, 5: 2}, {0: 3, 5: 2})  # nothing: 6, fox: 4
    for threshold, answer in ((0.0, ""), (1.9, ""), (2.0, "fox")):
        made = decode(logits, windows, asked(), with_negative=True, threshold=threshold)
        assert (made.answers["q0"], made.texts["q0"], made.null_odds["q0"]) == (answer, "fox", 2.0)
    assert made.nbest["q0"][0]["text"] == "" and made.nbest["q0"][1]["text"] == "fox"
    assert decode(logits, windows, asked()).answers["q0"] == "fox"  # SQuAD 1.1 knows no silence


def test_a_context_of_nothing():
    windows = windows_of([])
    made = decode(scores(windows, {}, {}), windows, asked())
    assert made.answers == {"q0": ""} and made.nbest["q0"][0]["text"] == ""


def test_files(tmp_path):
    windows = windows_of([0, 1, 2, 3])
    logits = scores(windows, {5: 2}, {5: 2})
    files = decode(logits, windows, asked(), with_negative=True).write(tmp_path, "eval")
    assert {file.name for file in files} == {path.name for path in tmp_path.iterdir()} == {
        "eval_predictions.json", "eval_nbest_predictions.json", "eval_null_odds.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "eval_predictions.json").read_text()) == {"q0": "fox"}
    assert len(decode(logits, windows, asked()).write(tmp_path / "one", "predict")) == 2
