"""Decoding of logits into answers: the best spans of each question over all of its windows.

A span is part of the context, never of the question; its score is its start logit plus its end logit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipe.finetune.qa.squad import Questions
from recipe.finetune.qa.windows import NOTHING, Windows
from recipe.system.files import write_json


@dataclass(frozen=True)
class Predictions:
    """By question id: the answer, the n best texts with their scores and, if questions may have no answer, the null
    odds: the score of no answer minus that of the best text."""

    answers: dict[str, str]
    texts: dict[str, str]  # the best text that isn't empty
    nbest: dict[str, list[dict]]
    null_odds: dict[str, float] | None

    def write(self, folder: Path, prefix: str) -> list[Path]:
        """Writes <prefix>_predictions.json, <prefix>_nbest_predictions.json and, if there are null odds,
        <prefix>_null_odds.json; returns the files."""
        contents = {"predictions": self.answers, "nbest_predictions": self.nbest, "null_odds": self.null_odds}
        files = {folder / f"{prefix}_{name}.json": content for name, content in contents.items() if content is not None}
        for file, content in files.items():
            write_json(file, content)
        return list(files)


def decode(
    logits: np.ndarray,
    windows: Windows,
    questions: Questions,
    *,
    n_best: int = 20,
    max_length: int = 30,
    with_negative: bool = False,
    threshold: float = 0.0,
) -> Predictions:
    """The answers to `questions` from logits [tokens, 2]: start and end logits of the tokens of all windows.

    In each window the `n_best` best start tokens are combined with the `n_best` best end tokens into spans of at most
    `max_length` tokens. The `n_best` best spans of all windows are kept, each part of the context once. With
    `with_negative`, "no answer" is a candidate too (Rajpurkar et al., 2018): its score is the lowest null score of the
    windows, since one window with the answer is enough, and it is predicted if the null odds exceed `threshold`.
    """
    found: list[dict[tuple[int, int], tuple[float, float, float]]] = [{} for _ in questions.rows]
    null = np.full((len(questions), 3), np.inf)
    for window, row in enumerate(windows.question.tolist()):
        tokens = windows.tokens(window)
        start, end = logits[tokens, 0], logits[tokens, 1]
        if (score := float(start[NOTHING]) + float(end[NOTHING])) < null[row, 0]:
            null[row] = score, start[NOTHING], end[NOTHING]
        for span, scores in _spans_of(start, end, windows.spans[tokens], n_best, max_length):
            if span not in found[row] or scores[0] > found[row][span][0]:
                found[row][span] = scores
    answers, texts, nbest, odds = {}, {}, {}, {}
    for question, spans, nothing in zip(questions.rows, found, null.tolist(), strict=True):
        ranked = sorted(spans.items(), key=lambda item: (-item[1][0], item[0]))[:n_best]
        listed = [_entry(question.context[a:b], *scores) for (a, b), scores in ranked]
        best = listed[0] if listed else _entry("", *nothing)
        if with_negative:
            odds[question.id] = nothing[0] - best["score"]
            listed = sorted([*listed, _entry("", *nothing)], key=lambda entry: -entry["score"])
        texts[question.id] = best["text"]
        unanswered = with_negative and odds[question.id] > threshold
        answers[question.id] = "" if unanswered else best["text"]
        nbest[question.id] = _with_probabilities(listed or [best])
    return Predictions(answers, texts, nbest, odds if with_negative else None)


def _spans_of(start: np.ndarray, end: np.ndarray, spans: np.ndarray, n_best: int, max_length: int):
    """Yields ((start, end), (score, start logit, end logit)) of the spans of one window; start and end are characters
    of the context, end exclusive."""
    usable = np.flatnonzero(spans[:, 0] < spans[:, 1])  # tokens of the context that aren't white space
    firsts, lasts = (usable[np.argsort(-scores[usable], kind="stable")[:n_best]] for scores in (start, end))
    long = lasts[None, :] - firsts[:, None]
    for a, b in zip(*np.nonzero((long >= 0) & (long < max_length)), strict=True):
        first, last = firsts[a], lasts[b]
        start_logit, end_logit = float(start[first]), float(end[last])
        yield (int(spans[first, 0]), int(spans[last, 1])), (start_logit + end_logit, start_logit, end_logit)


def _entry(text: str, score: float, start: float, end: float) -> dict:
    return {"text": text, "score": score, "start_logit": start, "end_logit": end}


def _with_probabilities(entries: list[dict]) -> list[dict]:
    """Each entry with its probability: a softmax over the scores of these entries."""
    scores = np.array([entry["score"] for entry in entries])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return [
        {
            "text": entry["text"],
            "probability": share,
            "start_logit": entry["start_logit"],
            "end_logit": entry["end_logit"],
        }
        for entry, share in zip(entries, shares.tolist(), strict=True)
    ]
