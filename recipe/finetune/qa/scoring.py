"""Exact match and F1 over words, as the official evaluation scripts of SQuAD 1.1 and 2.0 define them.

Scores are percentages, as those scripts print them. A question without an answer has the gold text "".

    python -m recipe.finetune.qa.scoring dev-v1.1.json eval_predictions.json
    python -m recipe.finetune.qa.scoring dev-v2.0.json \\
        eval_predictions.json eval_null_odds.json
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import json
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable
from math import isfinite
from pathlib import Path

import numpy as np

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.qa.squad import Questions, read_file
from recipe.system.errors import UserError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without the words a, an and the, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, golds: Iterable[str]) -> float:
    """1 if the normalised prediction equals one of the normalised gold answers, else 0."""
    return float(any(normalise(prediction) == normalise(gold) for gold in golds))


def f1(prediction: str, golds: Iterable[str], both_empty: float = 1.0) -> float:
    """The F1 over words with the closest gold answer. If neither side has a word after normalisation it is
    `both_empty`: 1 in SQuAD 2.0; 0 in 1.1, whose script counts common words and finds none."""
    return max(_f1(normalise(prediction).split(), normalise(gold).split(), both_empty) for gold in golds)


def _f1(predicted: list[str], gold: list[str], both_empty: float) -> float:
    if not predicted and not gold:
        return both_empty
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2.0 * common / (len(predicted) + len(gold))


def golds_of(texts: Iterable[str]) -> list[str]:
    """The gold texts of a question that are scored: those with a word after normalisation, [""] if there are none."""
    return [text for text in texts if normalise(text)] or [""]


def question_scores(
    predictions: dict[str, str], golds: dict[str, list[str]], both_empty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question of `golds`, in percent; 0 for a question without a prediction."""
    found = [(predictions.get(name), texts) for name, texts in golds.items()]
    return (
        np.array([0.0 if text is None else 100.0 * exact(text, texts) for text, texts in found]),
        np.array([0.0 if text is None else 100.0 * f1(text, texts, both_empty) for text, texts in found]),
    )


def score(predictions: dict[str, str], golds: dict[str, list[str]]) -> dict[str, float]:
    """The metrics of SQuAD 1.1, exact_match and f1, in percent over all questions of `golds` ({id: answers}). A
    question without a prediction counts as wrong."""
    found = [(predictions.get(name), texts) for name, texts in golds.items()]
    return {
        "exact_match": _percent([0.0 if text is None else exact(text, texts) for text, texts in found]),
        "f1": _percent([0.0 if text is None else f1(text, texts, both_empty=0.0) for text, texts in found]),
    }


def score_with_negative(
    predictions: dict[str, str], golds: dict[str, list[str]], null_odds: dict[str, float] | None, threshold: float = 0.0
) -> dict[str, float]:
    """The metrics of SQuAD 2.0, in percent: exact and f1 over all questions, over those with an answer (HasAns_) and
    over those without (NoAns_); and best_exact and best_f1, the scores at the best threshold for these questions, with
    that threshold (best_..._thresh).

    A question whose null odds exceed `threshold` counts as unanswered; otherwise its prediction counts, which should be
    the best text that isn't empty. Without null odds, predictions are used as they are and there is no best threshold.
    A question without a prediction counts as wrong.
    """
    odds = null_odds or {}
    golds = {name: golds_of(texts) for name, texts in golds.items()}
    exacts = {name: exact(predictions[name], texts) if name in predictions else 0.0 for name, texts in golds.items()}
    f1s = {name: f1(predictions[name], texts) if name in predictions else 0.0 for name, texts in golds.items()}
    answerable = {name: texts != [""] for name, texts in golds.items()}
    metrics: dict[str, float] = {}
    for part, names in {
        "": list(golds),
        "HasAns_": [name for name in golds if answerable[name]],
        "NoAns_": [name for name in golds if not answerable[name]],
    }.items():
        if not names:
            continue
        unanswered = {name: name in odds and odds[name] > threshold for name in names}
        for metric, scores in (("exact", exacts), ("f1", f1s)):
            points = [float(not answerable[name]) if unanswered[name] else scores[name] for name in names]
            metrics[part + metric] = _percent(points)
        metrics[f"{part}total"] = len(names)
    for metric, scores in (("exact", exacts), ("f1", f1s)) if odds else ():
        best, at = best_threshold(scores, predictions, answerable, odds)
        metrics |= {f"best_{metric}": best, f"best_{metric}_thresh": at}
    return metrics


def best_threshold(
    scores: dict[str, float], predictions: dict[str, str], answerable: dict[str, bool], null_odds: dict[str, float]
) -> tuple[float, float]:
    """(the best score in percent, the null odds at which it is reached), as the official script computes it: questions
    are answered one by one in order of increasing null odds, ties in the order of `null_odds`, and the best score on
    the way counts. With ties there may be no threshold with that score, since it would answer all of them or none.
    """
    odds = null_odds | {name: 0.0 for name in scores if name not in null_odds}
    current = best = float(sum(not has for has in answerable.values()))  # nothing is answered
    at = 0.0
    for name in sorted((name for name in odds if name in scores), key=odds.__getitem__):
        if answerable[name]:
            current += scores[name]
        elif predictions.get(name):  # any text loses the point for not answering, even one without words
            current -= 1.0
        if current > best:
            best, at = current, odds[name]
    return 100.0 * best / len(scores), at


def golds_by_id(questions: Questions) -> dict[str, list[str]]:
    """{id: the texts of its answers}."""
    return {question.id: [answer.text for answer in question.answers or ()] for question in questions.rows}


def _percent(scores: list[float]) -> float:
    return 100.0 * sum(scores) / len(scores)


def main() -> int:
    ((files,),) = parse((), description=__doc__, positional=("files ...",))
    if len(files) not in (2, 3):
        raise UserError(f"found {len(files)} files, expected SQuAD's, the predictions and maybe the null odds")
    questions = read_file(Path(files[0]))
    predictions = _object(Path(files[1]), str, "answer")
    odds = [_object(Path(name), float, "null odds") for name in files[2:]]
    golds = golds_by_id(questions)
    if odds or not all(golds.values()):
        metrics = score_with_negative(predictions, golds, odds[0] if odds else None)
    else:
        metrics = score(predictions, golds)
    missing = sum(name not in predictions for name in golds)
    if missing:
        print(
            f"warning: {missing:,} of {len(golds):,} questions have no prediction and count as wrong", file=sys.stderr
        )
    print(json.dumps(metrics, indent=2))
    return 0


def _object(file: Path, kind: type, what: str) -> dict:
    """The JSON object {id: `what`} of a file, each value a text (`kind` str) or a finite number (float)."""
    expected = f"{{id: {what}}}"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}: expected JSON, {expected}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, expected one object, {expected}")
    for name, value in content.items():
        if kind is str and not isinstance(value, str):
            raise UserError(f"{file}: question {name} has {json.dumps(value)[:60]}, expected its {what} as a text")
        if kind is float and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise UserError(f"{file}: question {name} has {json.dumps(value)[:60]}, expected its {what} as a number")
    return content


if __name__ == "__main__":
    run_script(main)
