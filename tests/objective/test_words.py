"""Whole-word masking: words are those of the tokenizer's own pre-tokenizer, however they are split into tokens."""

import pickle

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from toy import SHARED_DATA, sequences_of, toy_documents
from transformers import PreTrainedTokenizerFast

from recipe.data.tokenizer import plain_backend, train_tokenizer
from recipe.objective.byte_words import DecodedWords, Gpt2Words
from recipe.objective.words import MarkedWords, WordBoundaries, word_boundaries
from recipe.system.errors import UserError

HARD = (
    "“Curly quotes” — and ‘single’ ones… an ellipsis… ‐ hyphens–dashes—all; it’s not it's.",
    "it's we're I've I'm you'll he'd can't IT'S 'summer' 's 'tis ''s !'s x''re 1's don'tt  'll\n's\t've '' 's'm'll'",
    "spaces  two   three    \n\n lines \n\t tab\u00a0no-break\u3000wide\u2003em \u00a0 \u3000\u3000 x \u00a0y\n \n z ",
    "1984 3.14 ½ ²³ Ⅳ 12,345 x2y ٣٤ a1b2",
    "語言模型可以閱讀文字。日本語のテキスト、한국어 텍스트 ภาษาไทย हिन्दी अनुच्छेद עברית العربية",
    "emoji 😀😀 👩‍👩‍👧 🇩🇪 naïve café e\u0301 ñandú Ω≈ç√∫ \x07 \x1c \u0085 \u2028 zero\u200bwidth \ufeff",
    "    def f(x):\n\t\treturn x[1:-1] != 'll' or r've'\r\n",
    "The  the ' the '  s 'd\u3000's \u00a0's",
)


def words_of(tokenizer, text: str) -> tuple[list[int], list[bool]]:
    """(ids of a text, whether a word begins at each), from encoding the pre-tokenizer's words one by one."""
    backend = plain_backend(tokenizer)
    encoding = backend.encode(text, add_special_tokens=False)
    normalised = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    encoded = [backend.model.tokenize(word) for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalised)]
    ids = [token.id for word in encoded for token in word]
    assert ids == encoding.ids
    return ids, [position == 0 for word in encoded for position in range(len(word))]


def positions_of_words(tokenizer, row: np.ndarray) -> list[list[int]]:
    """The positions of each word in a row of ids, without special tokens."""
    special = np.isin(row, tokenizer.all_special_ids)
    starts = word_boundaries(tokenizer).starts(row[None])[0] | special
    starts[1:] |= special[:-1]
    words = np.split(np.arange(len(row)), np.flatnonzero(starts)[1:])
    return [word.tolist() for word in words if not special[word[0]]]


def disagreement(tokenizer, texts) -> tuple[int, int]:
    """(number of tokens at which the boundaries differ, number of all tokens) over the texts."""
    boundaries, wrong, total = word_boundaries(tokenizer), 0, 0
    for text in texts:
        ids, expected = words_of(tokenizer, text)
        if ids:
            wrong += int((boundaries.starts(np.array([ids])) != np.array([expected])).sum())
            total += len(ids)
    return wrong, total


@pytest.fixture(scope="module")
def real() -> list[str]:
    """Parts of Wikipedia, books and WikiText."""
    if not SHARED_DATA.exists():
        pytest.skip("no real text at ../shared/data")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(next((SHARED_DATA / "wiki_books").glob("validation*")), columns=["text"])
    documents = [text[len(text) // 3 :][:12_000] for text in table.column("text").to_pylist()[::4]]
    return [*documents, (SHARED_DATA / "wikitext-2" / "valid.txt").read_text()[:60_000]]


@pytest.mark.parametrize("vocab_size", [262, 400, 2000])  # mostly bytes; parts of characters; words
def test_byte_level_words_are_those_of_the_pre_tokenizer(vocab_size):
    texts = [*HARD, *toy_documents(40), *(a + b for a in HARD for b in HARD)]
    tokenizer = train_tokenizer(lambda: texts, kind="bpe", vocab_size=vocab_size, min_frequency=1)
    assert isinstance(word_boundaries(tokenizer).begins, Gpt2Words)
    wrong, total = disagreement(tokenizer, texts)
    assert wrong == 0 and total > 5_000


@pytest.mark.parametrize(("kind", "vocab_size"), [("bpe", 1000), ("bpe", 8192), ("wordpiece", 4000), ("unigram", 1000)])
def test_words_of_real_text_are_those_of_the_pre_tokenizer(real, kind, vocab_size):
    texts = real[::3] if kind == "unigram" else real
    tokenizer = train_tokenizer(lambda: texts, kind=kind, vocab_size=vocab_size)
    wrong, total = disagreement(tokenizer, texts)
    assert wrong == 0 and total > 15_000


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_marked_words_are_those_of_the_pre_tokenizer(kind):
    texts = [*HARD, *toy_documents(40)]
    tokenizer = train_tokenizer(lambda: texts, kind=kind, vocab_size=800, min_frequency=1)
    assert isinstance(word_boundaries(tokenizer).begins, MarkedWords)
    assert disagreement(tokenizer, texts)[0] == 0


def test_words_of_another_byte_level_pre_tokenizer():
    """The pre-tokenizer splits numbers after three digits and joins a sign to the word after it, as in newer models."""
    backend = Tokenizer(models.BPE())
    rule = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    split = pre_tokenizers.Split(Regex(rule), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    texts = [*HARD, *toy_documents(40)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert isinstance(word_boundaries(tokenizer).begins, DecodedWords)
    assert disagreement(tokenizer, texts)[0] == 0


def test_special_tokens_and_the_ends_of_a_row(bpe):
    ids = bpe("the dogs", "the 語")["input_ids"]
    for boundaries in (word_boundaries(bpe), None):
        begins = DecodedWords(*_tables(bpe)) if boundaries is None else boundaries.starts
        starts = begins(np.array([ids, ids]))
        assert (starts[0] == starts[1]).all()
        specials = np.isin(ids, bpe.all_special_ids)
        assert starts[0][specials].all() and starts[0][np.flatnonzero(specials)[:-1] + 1].all()
        for cut in range(1, len(ids)):  # a row may begin and end inside of a character
            assert begins(np.array([ids[cut:]])).shape == begins(np.array([ids[:-cut]])).shape


def _tables(tokenizer):
    begins = word_boundaries(tokenizer).begins
    return begins.texts, begins.first == 4, tokenizer.backend_tokenizer.pre_tokenizer


def test_a_batch_has_the_same_words_as_its_rows(bpe):
    texts = [text * 3 for text in HARD]
    length = 64
    rows = np.array([words_of(bpe, text)[0][:length] for text in texts])
    boundaries = word_boundaries(bpe)
    together = boundaries.starts(rows)
    for row, starts in zip(rows, together, strict=True):
        np.testing.assert_array_equal(boundaries.starts(row[None])[0], starts)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_word_is_masked_completely_or_not_at_all(kind, request):
    tokenizer = request.getfixturevalue(kind)
    documents = [f"{text} {HARD[n % 3]}" for n, text in enumerate(toy_documents(100, seed=4))]
    sequences = sequences_of(tokenizer, documents, length=64, words=word_boundaries(tokenizer))
    multi_token_words = 0
    for n in range(40):
        batch = sequences[n]
        ids = sequences.blocks.rows(sequences.block_ids(range(n, n + 1)))
        masked = set(batch["masked_positions"][0][batch["labels"][0] >= 0].tolist())
        quota = round(0.15 * int((ids != tokenizer.pad_token_id).sum()))
        assert quota - 2 <= len(masked) <= quota  # no word is cut to fill the quota
        for word in positions_of_words(tokenizer, ids[0]):
            assert len(masked & set(word)) in (0, len(word))
            multi_token_words += len(word) > 1 and word[0] in masked
    assert multi_token_words > 20


def test_byte_level_words_begin_at_spaces_and_between_letters_and_other_characters(bpe):
    ids = np.array([bpe("the dogs, (un)tied “it’s” we're 1984!", add_special_tokens=False)["input_ids"]])
    starts = word_boundaries(bpe).starts(ids)[0]
    cuts = np.flatnonzero(starts)
    words = "|".join(bpe.decode(word) for word in np.split(ids[0], cuts[1:]))
    assert words == "the| dogs|,| (|un|)|tied| “|it|’|s|”| we|'re| 1984|!"


def test_a_vocabulary_without_marks_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="marks words"):
        word_boundaries(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_boundaries_can_be_pickled_for_loader_workers(bpe):
    boundaries = word_boundaries(bpe)
    ids = np.array([words_of(bpe, HARD[0])[0]])
    assert (pickle.loads(pickle.dumps(boundaries)).starts(ids) == boundaries.starts(ids)).all()


def test_no_word_continues_after_a_special_token():
    """The token after a special token begins a word with its own key, even if its text continues a word."""
    # The tokens are an end token, a word, and the continuation of a word.
    boundaries = WordBoundaries(MarkedWords(np.array([True, True, False])))
    ids = np.array([[1, 0, 2]])
    keys = np.array([[9, 0, 5]], dtype=np.uint32)
    chosen = boundaries.choose(ids, ids != 0, keys, quota=np.array([[1]]))
    assert chosen.tolist() == [[False, False, True]]
