"""recipe.finetune.qa.scoring: exact match and F1 by hand, thresholds, and whole files."""

import json
import sys

import numpy as np
import pytest
from qa_toys import write_squad
from toy import SHARED_DATA

from recipe.finetune.qa import scoring as answers
from recipe.finetune.qa.scoring import best_threshold, exact, f1, normalise, score, score_with_negative
from recipe.system.errors import UserError

DEV = SHARED_DATA / "squad" / "dev-v1.1.json"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat, sat.", "cat sat"),
        ("an apple a day", "apple day"),
        ("theory of a Theater", "theory of theater"),  # articles are words, not letters
        ("U.S.A.", "usa"),  # punctuation goes, nothing takes its place
        ("re-\ntied", "re tied"),
        ("$5—6", "5—6"),  # only ASCII punctuation
        ("the", ""),
    ],
)
def test_normalisation(text, plain):
    assert normalise(text) == plain


def test_the_best_of_several_answers_counts():
    golds = ["the Denver Broncos", "Denver", "Broncos of Denver"]
    assert exact("Denver Broncos!", golds) == 1 and f1("Denver Broncos!", golds) == 1
    assert exact("Broncos", golds) == 0
    assert f1("Broncos", golds) == pytest.approx(2 / 3)  # precision 1, recall 1/2 against the first
    assert f1("Denver Denver", ["Denver"]) == pytest.approx(2 / 3)  # a repeated word counts once: 1/2, 1
    assert f1("Panthers", golds) == 0


def test_texts_without_words():
    assert f1("", [""]) == 1 and f1("the", [""]) == 1 and exact("a", [""]) == 1
    assert f1("", ["Denver"]) == 0 and f1("Denver", [""]) == 0
    assert score({"a": "the"}, {"a": ["."]}) == {"exact_match": 100.0, "f1": 0.0}  # so has it SQuAD 1.1's own script


def test_squad_1_by_hand():
    golds = {"a": ["red fox", "fox"], "b": ["blue"], "c": ["green"]}
    # exact 1, 0, 0 (missing); F1: 1, 2/3 (precision 1/2, recall 1), 0
    assert score({"a": "The fox", "b": "blue hat"}, golds) == pytest.approx(
        {"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3}
    )


def test_squad_2_by_hand():
    golds = {"has": ["red fox"], "has2": ["blue"], "none": [], "none2": []}
    texts = {"has": "fox", "has2": "blue", "none": "red", "none2": "hat"}
    odds = {"has": -3.0, "has2": 1.0, "none": 2.0, "none2": -1.0}
    metrics = score_with_negative(texts, golds, odds)
    # answered: has (F1 2/3) and none2 (wrong); silent: has2 (wrong) and none (right)
    assert metrics["exact"] == pytest.approx(25.0) and metrics["f1"] == pytest.approx(100 * (2 / 3 + 0 + 1 + 0) / 4)
    assert metrics["HasAns_exact"] == 0 and metrics["HasAns_f1"] == pytest.approx(100 / 3)
    assert metrics["NoAns_exact"] == metrics["NoAns_f1"] == 50
    assert (metrics["total"], metrics["HasAns_total"], metrics["NoAns_total"]) == (4, 2, 2)
    # by odds: has +2/3, none2 -1, has2 +1, none -1; from 2 right in silence: 2.67, 1.67, 2.67, 1.67
    assert metrics["best_f1"] == pytest.approx(100 * (2 + 2 / 3) / 4) and metrics["best_f1_thresh"] == -3.0
    assert metrics["best_exact"] == 50 and metrics["best_exact_thresh"] == 0.0
    higher = score_with_negative(texts, golds, odds, threshold=1.5)  # now has2 is answered, too
    assert higher["exact"] == 50 and higher["HasAns_exact"] == 50
    assert score_with_negative(texts | {"none": ""}, golds, None)["NoAns_exact"] == 50


def test_a_question_without_a_prediction_is_wrong_whether_it_has_an_answer_or_not():
    metrics = score_with_negative({}, {"has": ["fox"], "none": []}, None)
    assert metrics["exact"] == metrics["f1"] == metrics["HasAns_f1"] == metrics["NoAns_exact"] == 0


def test_odds_that_equal_the_threshold_are_answered():
    golds = {"has": ["fox"], "none": []}
    texts = {"has": "fox", "none": "red"}
    metrics = score_with_negative(texts, golds, {"has": 1.5, "none": 1.5}, threshold=1.5)
    assert (metrics["HasAns_exact"], metrics["NoAns_exact"]) == (100, 0)


def official_best(predictions, scores, answerable, odds):
    """The rule of the official script in other words: the best of all prefixes of the order by null odds."""
    order = sorted(odds, key=odds.get)
    silent = sum(not has for has in answerable.values())
    gains = [scores[n] if answerable[n] else -bool(predictions[n]) for n in order]
    totals = [silent + sum(gains[:count]) for count in range(len(order) + 1)]
    best = totals.index(max(totals))
    return 100 * totals[best] / len(order), odds[order[best - 1]] if best else 0.0


def test_the_best_threshold_with_tied_odds_is_the_official_one():
    """The official script adds one question after the other, so it may part two of equal odds."""
    texts = {"right": "fox", "wrong": "red"}
    scores, answerable = {"right": 1.0, "wrong": 0.0}, {"right": True, "wrong": False}
    assert best_threshold(scores, texts, answerable, {"right": 0.5, "wrong": 0.5}) == (100.0, 0.5)
    assert best_threshold(scores, texts, answerable, {"wrong": 0.5, "right": 0.5}) == (50.0, 0.0)  # their order counts
    assert best_threshold(scores, texts, answerable, {"right": 0.5, "wrong": 0.6}) == (100.0, 0.5)
    # "the" has no word left and would be right in silence, but it is an answer
    assert best_threshold({"wrong": 1.0}, {"wrong": "the"}, {"wrong": False}, {"wrong": 0.0}) == (100.0, 0.0)
    generator = np.random.default_rng(0)
    for _ in range(50):
        names = [f"q{n}" for n in range(30)]
        odds = {name: float(generator.integers(-2, 3)) for name in generator.permutation(names)}
        answerable = {name: bool(generator.integers(2)) for name in names}
        texts = {name: "fox" if generator.integers(4) else "" for name in names}
        scores = {
            name: float(generator.integers(3)) / 2 if answerable[name] else float(not texts[name]) for name in names
        }
        found = best_threshold(scores, texts, answerable, odds)
        assert found == pytest.approx(official_best(texts, scores, answerable, odds))


def scored(monkeypatch, capsys, *files):
    monkeypatch.setattr(sys, "argv", ["recipe.finetune.qa.scoring", *map(str, files)])
    answers.main()
    return json.loads(capsys.readouterr().out)


def golds_in(file):
    data = json.loads(file.read_text())["data"]
    return {q["id"]: [a["text"] for a in q["answers"]] for d in data for p in d["paragraphs"] for q in p["qas"]}


@pytest.mark.parametrize("where", ["toys", "squad"])
def test_a_perfect_file_scores_100_and_an_empty_one_0(where, tmp_path, monkeypatch, capsys):
    if where == "squad" and not DEV.exists():
        pytest.skip(f"{DEV} is not on this machine")
    dev = DEV if where == "squad" else write_squad(tmp_path) / "dev-v1.1.json"
    golds, file = golds_in(dev), tmp_path / "predictions.json"
    for number in (0,) if where == "squad" else (0, -1):  # any of the answers will do
        file.write_text(json.dumps({name: texts[number] for name, texts in golds.items()}))
        assert scored(monkeypatch, capsys, dev, file) == {"exact_match": 100.0, "f1": 100.0}
    file.write_text("{}")
    assert scored(monkeypatch, capsys, dev, file) == {"exact_match": 0.0, "f1": 0.0}
    file.write_text(json.dumps(dict.fromkeys(golds, "")))
    # Three questions of the real file have "." among their answers, which is "" once punctuation is gone.
    dots = sum("." in texts for texts in golds.values())
    assert scored(monkeypatch, capsys, dev, file) == {"exact_match": pytest.approx(100 * dots / len(golds)), "f1": 0.0}
    assert dots == (3 if where == "squad" else 0)


def test_files_with_negatives(tmp_path, monkeypatch, capsys):
    dev = write_squad(tmp_path, negatives=True) / "dev-v2.0.json"
    golds, file = golds_in(dev), tmp_path / "predictions.json"
    file.write_text(json.dumps({name: texts[0] if texts else "" for name, texts in golds.items()}))
    perfect = scored(monkeypatch, capsys, dev, file)
    assert perfect["exact"] == perfect["HasAns_f1"] == perfect["NoAns_f1"] == 100
    file.write_text(json.dumps(dict.fromkeys(golds, "")))
    silent = scored(monkeypatch, capsys, dev, file)
    assert (silent["exact"], silent["HasAns_exact"], silent["NoAns_exact"]) == (50, 0, 100)


def test_mistakes(tmp_path, monkeypatch, capsys):
    dev = write_squad(tmp_path) / "dev-v1.1.json"
    (tmp_path / "list.json").write_text("[]")
    for files, message in (
        ((dev,), "found 1 files"),
        ((dev, tmp_path / "none.json"), "cannot read"),
        ((dev, tmp_path / "list.json"), "holds a list, expected one object"),
    ):
        with pytest.raises(UserError, match=message):
            scored(monkeypatch, capsys, *files)


@pytest.mark.parametrize(
    ("predictions", "odds", "message"),
    [
        ('{"1": 3}', None, "question 1 has 3, expected its answer as a text"),
        ('{"1": null}', None, "question 1 has null, expected its answer"),
        ('{"1": {"text": "red"}}', None, "question 1 has {"),
        ("7", None, "holds a int, expected one object"),
        ("[" * 100_000, None, "cannot read .*expected JSON"),
        ("{}", '{"1": "high"}', 'question 1 has "high", expected its null odds as a number'),
        ("{}", '{"1": NaN}', "question 1 has NaN, expected its null odds"),
        ("{}", '{"1": true}', "question 1 has true, expected its null odds"),
        ("{}", "[1]", "holds a list, expected one object, {id: null odds}"),
    ],
)
def test_values_of_a_wrong_type(tmp_path, monkeypatch, capsys, predictions, odds, message):
    files = [write_squad(tmp_path) / "dev-v1.1.json"]
    for number, content in enumerate(text for text in (predictions, odds) if text):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(content)
    with pytest.raises(UserError, match=message) as error:
        scored(monkeypatch, capsys, *files)
    assert "\n" not in str(error.value)
