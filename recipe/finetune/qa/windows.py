"""Questions with their contexts as a model reads them: windows that overlap, each token with its place in the context.

A context that is longer than a window is read in several; `stride` tokens at the end of one are read again in the next
(the meaning of doc_stride in the library's script). Special tokens, separators and types are the tokenizer's own.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from recipe.data.token_arrays import token_dtype
from recipe.data.tokenizer import fingerprint, plain_backend
from recipe.finetune.examples import Examples, cached_arrays
from recipe.finetune.qa.squad import Questions
from recipe.system.errors import UserError
from recipe.system.progress import track

FORMAT = "2"  # raise it when the meaning of the cached arrays changes
OUTSIDE = -1  # the place of a token that isn't of the context
NOTHING = 0  # the token that stands for "no answer here": <s>, [CLS]


@dataclass(frozen=True)
class Windows:
    """The windows of a split, tokens end to end.

    ids, types [tokens]; ends [windows], where each ends; question [windows], the row of its question; spans
    [tokens, 2], the first character and the one after the last of a token in its context (white space at either side
    left out), OUTSIDE for tokens of the question and special ones. `cut` questions were longer than a window allows.
    """

    ids: np.ndarray
    types: np.ndarray
    ends: np.ndarray
    question: np.ndarray
    spans: np.ndarray
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ends)

    def tokens(self, window: int) -> slice:
        """Where the tokens of a window lie."""
        return slice(self.ends[window - 1] if window else 0, self.ends[window])

    def examples(self, labels: np.ndarray | None, **options) -> Examples:
        """What the trainer takes; labels [windows, 2] as `labels` makes them."""
        arrays = {"ids": self.ids, "types": self.types, "ends": self.ends}
        return Examples(arrays, labels, regression=False, **options)

    def labels(self, questions: Questions) -> np.ndarray:
        """[windows, 2]: the tokens that the first answer begins and ends with, counted from the window's first;
        NOTHING twice where the window doesn't hold all of it, or there is none in the context."""
        labels = np.full((len(self), 2), NOTHING, dtype=np.int64)
        for window, row in enumerate(self.question.tolist()):
            question = questions.rows[row]
            if answers := [answer for answer in question.answers or () if question.holds(answer)]:
                text, start = answers[0].text, answers[0].start
                first = start + len(text) - len(text.lstrip())
                last = start + len(text.rstrip())
                labels[window] = _place(self.spans[self.tokens(window)], first, last)
        return labels


def _place(spans: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The tokens of `spans` that cover the characters from `first` up to `last`, NOTHING twice if they don't."""
    inside = np.flatnonzero((spans[:, 0] < spans[:, 1]) & (spans[:, 1] > first) & (spans[:, 0] < last))
    if not len(inside) or spans[inside[0], 0] > first or spans[inside[-1], 1] < last:
        return NOTHING, NOTHING
    return int(inside[0]), int(inside[-1])


def cut_windows(
    questions: Questions,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    stride: int,
    cache: Path,
    overwrite: bool = False,
) -> Windows:
    """The windows of `questions`, at most `max_length` tokens each. Kept under `cache` by what decides the result.

    White space around a question is dropped; one that leaves no room for its context is cut. Raises UserError where
    `stride` leaves no room at all.
    """
    if stride < 0 or stride > max_length // 2:
        raise UserError(
            f"found --doc_stride {stride} with --max_seq_length {max_length}, expected 0 to {max_length // 2}: windows "
            "that overlap more than by half hardly move on"
        )
    about = f"{FORMAT} {fingerprint(tokenizer)} {questions.digest} {max_length} {stride}"
    file = cache / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
    arrays = cached_arrays(file, lambda: _cut(questions, tokenizer, max_length, stride), overwrite)
    return Windows(
        **{name: arrays[name] for name in ("ids", "types", "ends", "question", "spans")}, cut=int(arrays["cut"][0])
    )


def _cut(questions: Questions, tokenizer, max_length: int, stride: int) -> dict[str, np.ndarray]:
    reader, joiner = _halves(tokenizer)
    specials = joiner.num_special_tokens_to_add(is_pair=True)
    joiner.enable_truncation(max_length, stride=stride, strategy="only_second")
    most = max_length - specials - stride - 1  # of a question: each window must move on by one token at least
    if most < 1:
        raise UserError(f"--max_seq_length {max_length} has no room for a question beside --doc_stride {stride}")
    parts: dict[str, list] = {"ids": [], "types": [], "ends": [], "question": [], "spans": []}
    end = cut = 0
    context, encoded = None, None
    rows = track(questions.rows, f"cutting windows of {questions.source}", len(questions.rows), "questions")
    for row, question in enumerate(rows):
        if question.context != context:  # a paragraph's questions follow each other
            context = question.context
            encoded = reader.encode("", context, add_special_tokens=False)  # the second of a pair has types of its own
        asked, shortened = _encode_question(reader, question.text.strip(), most)
        cut += shortened
        first = joiner.post_process(asked, encoded)
        for window in (first, *first.overflowing):
            end += len(window)
            parts["ids"].append(np.array(window.ids, dtype=np.int32))
            parts["types"].append(np.array(window.type_ids, dtype=np.uint8))
            parts["spans"].append(_spans(window, question.context))
            parts["ends"].append(end)
            parts["question"].append(row)
    return {
        "ids": np.concatenate(parts["ids"]).astype(token_dtype(len(tokenizer))),
        "types": np.concatenate(parts["types"]),
        "ends": np.array(parts["ends"], dtype=np.int64),
        "question": np.array(parts["question"], dtype=np.int32),
        "spans": np.concatenate(parts["spans"]),
        "cut": np.array([cut], dtype=np.int64),
    }


def _encode_question(reader: Tokenizer, text: str, most: int) -> tuple[Encoding, bool]:
    """The first tokens of a question, at most `most`, and whether that is less than all of it.

    The text is cut, not the encoding: a truncated encoding keeps its other pieces, and joining it with a context gives
    windows whose question is such a piece."""
    asked = reader.encode(text, add_special_tokens=False)
    whole = len(asked)
    while len(asked) > most:
        text = text[: min(asked.offsets[most - 1][1], len(text) - 1)]
        asked = reader.encode(text, add_special_tokens=False)
    return asked, len(asked) < whole


def _halves(tokenizer: PreTrainedTokenizerFast) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer in two: one that turns text into tokens, and one that joins two such into windows.

    The first has no post-processor: a byte-level one moves the offsets of a token behind its space, and would move
    them again when the windows are made."""
    parts = json.loads(plain_backend(tokenizer).to_str())
    parts["post_processor"] = None
    reader = Tokenizer.from_str(json.dumps(parts))
    reader.encode_special_tokens = True
    return reader, plain_backend(tokenizer)


def _spans(window: Encoding, context: str) -> np.ndarray:
    """[tokens, 2] int32: where each token lies in `context`.

    A byte-level token may count the space before its word as its own, or not, as its tokenizer was made: here it
    never does, since no answer begins with one."""
    spans = np.full((len(window), 2), OUTSIDE, dtype=np.int32)
    for place, (half, (start, end)) in enumerate(zip(window.sequence_ids, window.offsets, strict=True)):
        if half != 1:
            continue
        while start < end and context[start].isspace():
            start += 1
        while start < end and context[end - 1].isspace():
            end -= 1
        spans[place] = start, end
    return spans
