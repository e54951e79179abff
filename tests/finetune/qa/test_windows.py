"""recipe.finetune.qa.windows: contexts cut into windows, and where each token lies in its context."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers.processors import RobertaProcessing
from toy import SHARED_DATA

from recipe.data.tokenizer import train_tokenizer
from recipe.finetune.qa.squad import Answer, Question, Questions, read_file
from recipe.finetune.qa.windows import NOTHING, OUTSIDE, cut_windows
from recipe.system.errors import UserError

CONTEXT = (
    "In  1912 Ann-Marie's café — naïve 東京 office — moved to Zürich, and seven dogs barked (loudly) at it. "
    "Then\nthe aunt sat on a mat while it's re-tied; nobody knew why."
)


@pytest.fixture(params=["bpe", "wordpiece"])
def tokenizer(request, bpe, wordpiece):
    return {"bpe": bpe, "wordpiece": wordpiece}[request.param]


def one(question, context, *answers):
    found = tuple(Answer(text, context.index(text)) for text in answers)
    return Questions([Question("q", question, context, found)], "toys")


def text_of(windows, questions, window, first, last):
    spans = windows.spans[windows.tokens(window)]
    context = questions.rows[windows.question[window]].context
    return context[spans[first, 0] : spans[last, 1]]


def test_windows_are_those_of_the_library(tokenizer, tmp_path):
    """Ids, types and separators of its own pair encoding: RoBERTa's double </s>, BERT's two types."""
    questions = one("  Where is the café? ", CONTEXT)
    windows = cut_windows(questions, tokenizer, 48, 12, tmp_path)
    theirs = tokenizer("Where is the café?", CONTEXT, truncation="only_second", max_length=48, stride=12,
                       return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True)  # fmt: skip
    assert len(windows) == len(theirs["input_ids"]) > 2
    for number in range(len(windows)):
        place = windows.tokens(number)
        assert windows.ids[place].tolist() == theirs["input_ids"][number]
        assert windows.types[place].tolist() == theirs["token_type_ids"][number]
        of_context = np.array([half == 1 for half in theirs.sequence_ids(number)])
        assert ((windows.spans[place] == OUTSIDE).all(axis=1) == ~of_context).all()
    separators = (windows.ids[windows.tokens(0)] == tokenizer.sep_token_id).sum()
    assert separators == (3 if tokenizer.sep_token == "</s>" else 2)


def test_a_window_repeats_the_stride_of_the_one_before(tokenizer, tmp_path):
    windows = cut_windows(one("who?", CONTEXT), tokenizer, 40, 10, tmp_path)
    bodies = [
        [tuple(span) for span in windows.spans[windows.tokens(n)].tolist() if span[0] >= 0] for n in range(len(windows))
    ]
    for before, after in pairwise(bodies):
        assert before[-10:] == after[:10]
    reached = {character for body in bodies for start, end in body for character in range(start, end)}
    assert reached == {place for place, letter in enumerate(CONTEXT) if not letter.isspace()}


@pytest.mark.parametrize(
    "answer", ["1912", "café", "東京", "Ann-Marie's", "(loudly)", "dogs barked", "Zürich", "re-tied", "why"]
)
def test_labels_point_at_the_answer(tokenizer, tmp_path, answer):
    assert_labelled(tokenizer, tmp_path, answer)


@pytest.mark.parametrize("answer", ["1912", "café", "dogs barked"])
def test_labels_where_the_tokenizer_counts_a_space_as_the_word_s_own(bpe, tmp_path, answer):
    bpe.save_pretrained(tmp_path / "tokenizer")
    greedy = type(bpe).from_pretrained(tmp_path / "tokenizer")
    ends = ("</s>", bpe.sep_token_id), ("<s>", bpe.cls_token_id)
    greedy.backend_tokenizer.post_processor = RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    assert_labelled(greedy, tmp_path, answer)


def assert_labelled(tokenizer, tmp_path, answer):
    questions = one("what?", CONTEXT, answer)
    windows = cut_windows(questions, tokenizer, 40, 15, tmp_path)
    labels = windows.labels(questions)
    found = [text_of(windows, questions, n, *label) for n, label in enumerate(labels) if label[0] != NOTHING]
    assert found and set(found) == {answer}


def test_an_answer_past_512_tokens_is_in_its_window(tokenizer, tmp_path):
    context = (
        "the cat sat on a mat while seven dogs barked. " * 60 + "Ann-Marie's aunt is 1984. " + "the cat sat. " * 30
    )
    questions = one("who is it?", context, "Ann-Marie's aunt")
    windows = cut_windows(questions, tokenizer, 64, 16, tmp_path)
    assert len(tokenizer(context[: context.index("Ann")])["input_ids"]) > 512
    labels = windows.labels(questions)
    numbers = [n for n, label in enumerate(labels) if label[0] != NOTHING]
    assert 1 <= len(numbers) <= 2
    for number in numbers:
        assert text_of(windows, questions, number, *labels[number]) == "Ann-Marie's aunt"
    # An answer that a window's end cuts in two is none of that window.
    starts = windows.spans[windows.tokens(numbers[0])]
    assert starts.max() <= len(context) and (labels == NOTHING).all(axis=1).sum() == len(windows) - len(numbers)


def test_an_answer_that_is_not_where_it_says_is_no_label(tokenizer, tmp_path):
    questions = Questions(
        [Question("q", "who?", CONTEXT, (Answer("dogs", 3), Answer("café", CONTEXT.index("café"))))], "t"
    )
    windows = cut_windows(questions, tokenizer, 400, 50, tmp_path)
    assert text_of(windows, questions, 0, *windows.labels(questions)[0]) == "café"


def test_long_questions_are_cut_and_counted(bpe, tmp_path):
    questions = one("why " * 80, CONTEXT)
    windows = cut_windows(questions, bpe, 48, 12, tmp_path)
    assert windows.cut == 1 and max(np.diff(windows.ends, prepend=0)) <= 48
    assert all((windows.spans[windows.tokens(n)][:, 0] >= 0).any() for n in range(len(windows)))
    assert cut_windows(one("why?", CONTEXT), bpe, 48, 12, tmp_path).cut == 0
    with pytest.raises(UserError, match=r"--doc_stride 30 with --max_seq_length 48, expected 0 to 24"):
        cut_windows(questions, bpe, 48, 30, tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_question_that_is_too_long_is_cut_to_its_beginning(kind, request, tmp_path):
    """Its other pieces must not become questions of their own: 63 windows, and not four times as many."""
    tokenizer = request.getfixturevalue(kind)
    question = "why does the cat sit on a mat while seven dogs are barking loudly " * 4
    windows = cut_windows(one(question, CONTEXT), tokenizer, 48, 16, tmp_path)
    asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    context = len(tokenizer(CONTEXT, add_special_tokens=False)["input_ids"])
    room = 48 - tokenizer.num_special_tokens_to_add(pair=True)
    assert asked > 60 and windows.cut == 1 and len(windows) == context - 16  # each window moves on by one token
    bodies = {tuple(windows.ids[windows.tokens(n)][: room - 16].tolist()) for n in range(len(windows))}
    assert len(bodies) == 1  # one question


def test_the_longest_questions_of_squad(bpe, tmp_path):
    file = SHARED_DATA / "squad" / "dev-v1.1.json"
    if not file.exists():
        pytest.skip(f"{file} is not on this machine")
    rows = sorted(read_file(file).rows, key=lambda row: -len(row.text))[:3]
    for row in rows:
        windows = cut_windows(Questions([row], "toys"), bpe, 64, 16, tmp_path)
        context = len(bpe(row.context, add_special_tokens=False)["input_ids"])
        assert windows.cut == 1 and len(windows) == context - 16


def test_empty_contexts_and_questions(tokenizer, tmp_path):
    rows = [Question("a", "who?", "", ()), Question("b", "", CONTEXT, ()), Question("c", " ", " \n", ())]
    windows = cut_windows(Questions(rows, "toys"), tokenizer, 48, 12, tmp_path)
    assert set(windows.question.tolist()) == {0, 1, 2}


def test_special_words_in_a_context_stay_text(bpe, tmp_path):
    windows = cut_windows(one("why </s>?", "a </s> b <mask> c"), bpe, 64, 8, tmp_path)
    ids = windows.ids.tolist()
    assert ids.count(bpe.sep_token_id) == 3 and bpe.mask_token_id not in ids


def test_made_once(bpe, tmp_path, monkeypatch):
    questions = one("who?", CONTEXT, "dogs")
    first = cut_windows(questions, bpe, 48, 12, tmp_path)
    monkeypatch.setattr("recipe.finetune.qa.windows._cut", None)  # calling it again would raise
    again = cut_windows(questions, bpe, 48, 12, tmp_path)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("ids", "spans", "ends"))
    other = train_tokenizer(lambda: [CONTEXT] * 3, vocab_size=280, min_frequency=1)
    for change in ((questions, other, 48, 12), (questions, bpe, 47, 12), (questions, bpe, 48, 11)):
        with pytest.raises(TypeError):
            cut_windows(*change, tmp_path)
