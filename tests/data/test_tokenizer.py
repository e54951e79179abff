"""Tokenizer training: special ids, reproducibility, bounded reading; '</s>' in a text is text."""

import pytest
from transformers import AutoTokenizer

from recipe.data.tokenizer import (
    block_ends,
    fingerprint,
    load_tokenizer,
    pieces,
    plain_backend,
    sample,
    save_tokenizer,
    train_tokenizer,
)
from recipe.system.errors import UserError


def test_bpe_has_the_special_ids_of_roberta(bpe):
    assert [bpe.convert_tokens_to_ids(t) for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 4]
    assert block_ends(bpe) == (0, 2)
    assert bpe("the cat", "sat")["input_ids"][0] == 0
    text = "naïve “text” with any byte \x07 \U0001f600"
    assert bpe.decode(bpe(text, add_special_tokens=False)["input_ids"]) == text


def test_wordpiece_has_the_layout_of_bert(wordpiece):
    assert [wordpiece.convert_tokens_to_ids(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == list(
        range(5)
    )
    encoded = wordpiece("the cat", "sat")
    assert encoded["input_ids"][0] == 2 and encoded["input_ids"][-1] == 3
    assert set(encoded["token_type_ids"]) == {0, 1}
    assert any(token.startswith("##") for token in wordpiece.get_vocab())


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_training_twice_gives_the_same_tokenizer(documents, kind):
    trained = [train_tokenizer(lambda: iter(documents), kind=kind, vocab_size=300, min_frequency=1) for _ in range(2)]
    assert trained[0].get_vocab() == trained[1].get_vocab()
    assert fingerprint(trained[0]) == fingerprint(trained[1])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_transformers_loads_a_saved_tokenizer_unchanged(documents, kind, tmp_path):
    trained = train_tokenizer(lambda: documents, kind=kind, vocab_size=300, min_frequency=1)
    save_tokenizer(trained, tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in (documents[0], f"the {trained.mask_token} sat"):
        assert loaded(text)["input_ids"] == trained(text)["input_ids"]
    assert loaded.mask_token_id == trained.mask_token_id and not (tmp_path / "tokenizer.partial").exists()


def test_special_tokens_in_a_text_are_text(bpe, wordpiece):
    for tokenizer in (bpe, wordpiece):
        text = f"a {tokenizer.mask_token} {tokenizer.sep_token} {tokenizer.pad_token}"
        assert not set(plain_backend(tokenizer).encode(text, add_special_tokens=False).ids) & {
            tokenizer.mask_token_id,
            tokenizer.sep_token_id,
            tokenizer.pad_token_id,
        }


def test_long_documents_in_pieces_give_the_same_tokenizer(documents, monkeypatch):
    text = "  ".join(documents[:20]) + "\n\n" + " ".join(documents[20:]) + " \u00a0 end"
    for size in (1, 7, 100):
        cut = list(pieces(text, size))
        assert "".join(cut) == text and len(cut) > len(text) / size / 40 and max(map(len, cut)) < size + 40
    assert list(pieces("語" * 1000, 10)) == ["語" * 1000] and list(pieces("", 10)) == [""]
    # A cut at a space between two line breaks would split one run of white space.
    with_breaks = "\n \n".join(documents[:50])
    text = with_breaks.replace(" the ", " the\n \n") + text
    for kind in ("bpe", "wordpiece"):
        trained = []
        for size in (10**9, 5):
            monkeypatch.setattr("recipe.data.tokenizer.PIECE_CHARACTERS", size)
            trained.append(train_tokenizer(lambda: [text], kind=kind, vocab_size=340, min_frequency=1))
        assert fingerprint(trained[0]) == fingerprint(trained[1])


def test_no_more_text_is_read_than_max_characters():
    read = []

    def endless():
        while True:
            read.append(1)
            yield "the cat sat on the mat " * 10

    train_tokenizer(endless, vocab_size=300, max_characters=10_000)
    assert len(read) < 60


def test_a_sample_depends_only_on_its_seed(documents):
    drawn = list(sample(documents, 0.3, seed=1))
    assert drawn == list(sample(documents, 0.3, seed=1)) != list(sample(documents, 0.3, seed=2))
    assert 0.15 < len(drawn) / len(documents) < 0.45
    assert list(sample(documents, 1.0, seed=1)) == documents
    rest = list(sample(documents, 0.3, seed=1, rest=True))
    assert sorted(drawn + rest) == sorted(documents) and [t for t in documents if t in set(rest)] == rest


def test_lowercase_wordpiece(documents):
    tokenizer = train_tokenizer(lambda: documents, kind="wordpiece", vocab_size=140, min_frequency=1, lowercase=True)
    assert tokenizer("THE CAT")["input_ids"] == tokenizer("the cat")["input_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"documents": lambda: []}, "no text to train"),
        ({"documents": lambda: ["a"], "vocab_size": 200}, "expected more than the 261"),
        ({"documents": lambda: ["a"], "kind": "word"}, "expected one of bpe, wordpiece, unigram"),
    ],
)
def test_invalid_training_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(**arguments)


def test_missing_tokenizers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="found no tokenizer at"):
        load_tokenizer(str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        load_tokenizer(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="TOKENIZER=train"):
        load_tokenizer("roberta-base")
