"""Whole-word masking, against words found by reading the text."""

import re

import numpy as np
import pytest
from toy import sequences_of, toy_documents

from recipe.errors import UserError
from recipe.words import word_boundaries


def words_of(tokenizer, ids, byte_level):
    """Words as lists of positions, from the tokens' own text: the slow and obvious way."""
    words, current = [], []
    previous = ""
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if ids[place] in tokenizer.all_special_ids:
            starts, previous = True, ""
        elif byte_level:
            text = tokenizer.decode([ids[place]])
            kind = lambda c: "d" if re.match(r"[0-9]", c) else "l" if c.isalpha() or ord(c) > 127 else "o"  # noqa: E731
            starts = token.startswith(("Ġ", "Ċ")) or not previous or kind(text.lstrip()[:1]) != kind(previous[-1])
            previous = text
        else:
            starts = not token.startswith("##")
        if starts and current:
            words.append(current)
            current = []
        current.append(place)
        if ids[place] in tokenizer.all_special_ids:
            current = []
    return [*words, current] if current else words


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_word_is_hidden_whole_or_not_at_all(kind, request):
    tokenizer = request.getfixturevalue(kind)
    documents = [text.replace("naïve ", "") for text in toy_documents(100, seed=4)]
    sequences = sequences_of(tokenizer, documents, length=64, words=word_boundaries(tokenizer))
    multi_token_words = 0
    for n in range(40):
        batch = sequences[n]
        ids = sequences.blocks.rows(sequences.block_ids(range(n, n + 1)))[0].tolist()
        hidden = set(batch["masked_positions"][0][batch["labels"][0] >= 0].tolist())
        quota = round(0.15 * sum(i != tokenizer.pad_token_id for i in ids))
        assert quota - 2 <= len(hidden) <= quota  # a word too many is never cut
        for word in words_of(tokenizer, ids, kind == "bpe"):
            assert len(hidden & set(word)) in (0, len(word)), (word, tokenizer.convert_ids_to_tokens(ids))
            multi_token_words += len(word) > 1 and word[0] in hidden
    assert multi_token_words > 20


def test_byte_level_words_begin_at_spaces_and_where_letters_meet_other_signs(bpe):
    ids = np.array([bpe("the dogs, (un)tied 1984!", add_special_tokens=False)["input_ids"]])
    starts = word_boundaries(bpe).starts(ids)[0]
    words = "".join(("|" if s else "") + bpe.decode([i]) for i, s in zip(ids[0], starts, strict=True))
    assert words == "|the| dogs|,| (|un|)|tied| 1984|!"


def test_a_vocabulary_without_marks_is_refused(bpe):
    class Unmarked:
        def __len__(self):
            return 3

        def convert_ids_to_tokens(self, ids):
            return ["a", "b", "c"]

    with pytest.raises(UserError, match="marks words"):
        word_boundaries(Unmarked())
