"""Overlapping windows of question and context, with the characters of the context that each token covers.

A context that is longer than a window is split into several; the last `stride` tokens of one are repeated in the next,
as --doc_stride means in the Hugging Face example script. Special tokens and token types are the tokenizer's.
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
OUTSIDE = -1  # start and end of a token that isn't part of the context
NOTHING = 0  # index of <s> or [CLS], the label of a window without the answer


@dataclass(frozen=True)
class Windows:
    """The windows of a split, their tokens concatenated.

    ids, types [tokens]; ends [windows], where each ends; question [windows], the row of its question; spans
    [tokens, 2], start and end (exclusive) of each token in the characters of its context, without surrounding white
    space, OUTSIDE for tokens of the question and special tokens. `cut` is the number of truncated questions.
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
        """The tokens of a window."""
        return slice(self.ends[window - 1] if window else 0, self.ends[window])

    def examples(self, labels: np.ndarray | None, **options) -> Examples:
        """The windows as examples for the trainer; labels [windows, 2] as `labels` returns them."""
        arrays = {"ids": self.ids, "types": self.types, "ends": self.ends}
        return Examples(arrays, labels, regression=False, **options)

    def labels(self, questions: Questions) -> np.ndarray:
        """int64 [windows, 2]: the first and the last token of the first answer, counted from the start of the window;
        NOTHING for both if the window doesn't contain the whole answer."""
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
    """First and last token of `spans` that cover the characters from `first` to `last` (exclusive); NOTHING for both if
    they don't cover all of them."""
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
    """Windows of at most `max_length` tokens, cached under `cache` by tokenizer, questions, length and stride.

    White space around a question is removed; a question that leaves too few tokens for its context is truncated.
    Raises UserError if `stride` is more than half of `max_length`, or leaves no tokens for the question.
    """
    if stride < 0 or stride > max_length // 2:
        raise UserError(
            f"found --doc_stride {stride} with --max_seq_length {max_length}, expected 0 to {max_length // 2}: windows "
            "overlap by at most half"
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
    most = max_length - specials - stride - 1  # tokens of a question: windows must advance by one or more
    if most < 1:
        raise UserError(f"--max_seq_length {max_length} leaves no tokens for a question beside --doc_stride {stride}")
    parts: dict[str, list] = {"ids": [], "types": [], "ends": [], "question": [], "spans": []}
    end = cut = 0
    context, encoded = None, None
    rows = track(questions.rows, f"cutting windows of {questions.source}", len(questions.rows), "questions")
    for row, question in enumerate(rows):
        if question.context != context:  # questions of one paragraph are consecutive
            context = question.context
            encoded = reader.encode("", context, add_special_tokens=False)  # second of a pair, for its types
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
    """The first tokens of a question, at most `most`, and whether it was truncated.

    The text is truncated, not the encoding: a truncated encoding keeps the rest as overflowing pieces, and joining it
    with a context would give windows with such a piece as their question."""
    asked = reader.encode(text, add_special_tokens=False)
    whole = len(asked)
    while len(asked) > most:
        text = text[: min(asked.offsets[most - 1][1], len(text) - 1)]
        asked = reader.encode(text, add_special_tokens=False)
    return asked, len(asked) < whole


def _halves(tokenizer: PreTrainedTokenizerFast) -> tuple[Tokenizer, Tokenizer]:
    """Two tokenizers: one that encodes text, and one that joins a question and a context into windows.

    The first has no post-processor: that of a byte-level tokenizer moves offsets past the leading space, and would do
    so a second time when the windows are joined."""
    parts = json.loads(plain_backend(tokenizer).to_str())
    parts["post_processor"] = None
    reader = Tokenizer.from_str(json.dumps(parts))
    reader.encode_special_tokens = True
    return reader, plain_backend(tokenizer)


def _spans(window: Encoding, context: str) -> np.ndarray:
    """int32 [tokens, 2]: start and end (exclusive) of each token in `context`.

    Some byte-level tokenizers include the space before a word in its token, others don't. Here white space is always
    excluded, since no answer begins with it."""
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
