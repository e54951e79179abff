"""Sentences as windows of tokens in which each word is labelled, and predicted, exactly once.

A word's label belongs to its first token. A sentence that is longer than a window is cut into several, which overlap;
of the windows that hold a token, the one that gives it most context on its shorter side has its label.
"""

import json
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipe.data.token_arrays import token_dtype
from recipe.data.tokenizer import block_ends, plain_backend
from recipe.finetune.examples import IGNORED, Examples
from recipe.finetune.ner.sentences import OUTSIDE, Sentences


@dataclass(frozen=True)
class WordWindows:
    """The windows of a split, their tokens concatenated.

    ids [tokens]; ends [windows], where each ends; sentence and word [tokens]: the word that is predicted at a token, -1
    where none is, and its sentence; inner [tokens]: whether it is a further token of a word.
    """

    ids: np.ndarray
    ends: np.ndarray
    sentence: np.ndarray
    word: np.ndarray
    inner: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def labels(self, sentences: Sentences, names: tuple[str, ...], all_tokens: bool) -> np.ndarray:
        """int64 [tokens]: the number in `names` of the label of each word at its first token, IGNORED elsewhere; with
        `all_tokens`, the further tokens of a word have its label as well, with I- in place of B-."""
        assert sentences.labels is not None, "the labels are known"
        number = {name: place for place, name in enumerate(names)}
        labels = np.full(len(self.ids), IGNORED, dtype=np.int64)
        inside = IGNORED
        for token, (sentence, word, inner) in enumerate(zip(self.sentence, self.word, self.inner, strict=True)):
            if word >= 0:
                name = sentences.labels[sentence][word]
                labels[token] = number[name]
                inside = number.get(f"I-{name[2:]}", number[name]) if name != OUTSIDE else number[name]
            elif inner and all_tokens:
                labels[token] = inside
        return labels

    def predicted(self, logits: np.ndarray, sentences: Sentences, names: tuple[str, ...]) -> list[list[str]]:
        """The label of each word from logits [tokens, labels]; O for a word without tokens."""
        best = logits.argmax(-1)
        found = [[OUTSIDE] * len(words) for words in sentences.words]
        for token in np.flatnonzero(self.word >= 0):
            found[self.sentence[token]][self.word[token]] = names[best[token]]
        return found


class TaggedExamples(Examples):
    """Examples with a label per token: a batch's labels are int64 [batch, longest]."""

    def __init__(self, windows: WordWindows, labels: np.ndarray | None, **options):
        arrays = {"ids": windows.ids, "types": np.zeros(len(windows.ids), np.uint8), "ends": windows.ends}
        super().__init__(arrays, None, regression=False, **options)
        self.labels = labels

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        labels, self.labels = self.labels, None
        try:
            batch = super().__getitems__(rows)
        finally:
            self.labels = labels
        if labels is not None:
            padded = np.full(tuple(batch["input_ids"].shape), IGNORED, dtype=np.int64)
            for place, row in enumerate(rows):
                if row >= 0:
                    end, length = self.ends[row], self.lengths[row]
                    padded[place, :length] = labels[end - length : end]
            batch["labels"] = torch.from_numpy(padded)
        return batch


def cut_windows(sentences: Sentences, tokenizer: PreTrainedTokenizerFast, max_length: int, stride: int) -> WordWindows:
    """The windows of `sentences`, of at most `max_length` tokens, begin and end tokens included; those of one sentence
    share `stride` tokens."""
    begin, end = block_ends(tokenizer)
    body = max_length - 2
    encodings = _for_words(tokenizer).encode_batch(
        [list(words) for words in sentences.words], is_pretokenized=True, add_special_tokens=False
    )
    ids, sentence, word, inner, ends = [], [], [], [], []
    for row, encoding in enumerate(encodings):
        words = np.array(encoding.word_ids, dtype=np.int64)
        further = np.diff(words, prepend=-1) == 0  # tokens after the first of their word
        starts = list(range(0, max(1, len(words) - stride), body - stride))
        place = np.arange(len(words))[:, None] - starts  # [tokens, windows]: where each token is in each window
        room = np.minimum(place, np.minimum(len(words) - np.array(starts), body) - 1 - place)
        of_token = room.argmax(1)  # the window with most context on the shorter side; below 0 it lacks the token
        for number, start in enumerate(starts):
            here = slice(start, start + body)
            own = of_token[here] == number
            ids.append([begin, *encoding.ids[here], end])
            word.append([-1, *np.where(own & ~further[here], words[here], -1), -1])
            inner.append([False, *(own & further[here]), False])
            sentence.append([row] * len(ids[-1]))
            ends.append(len(ids[-1]))
    joined = [np.concatenate(values) for values in (ids, sentence, word, inner)]
    return WordWindows(joined[0].astype(token_dtype(len(tokenizer))), np.cumsum(ends, dtype=np.int64), *joined[1:])


def _for_words(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer, set to give every word the tokens that it has after a space."""
    backend = plain_backend(tokenizer)
    parts = json.loads(backend.to_str())
    if (parts.get("pre_tokenizer") or {}).get("type") == "ByteLevel":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=True, use_regex=parts["pre_tokenizer"].get("use_regex", True)
        )
    return backend
