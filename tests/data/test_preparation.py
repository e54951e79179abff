"""Preparation: every token of every document once; made once, continued after a kill, made again for other inputs."""

import json

import numpy as np
import pytest
from toy import toy_documents

import recipe.data.preparation
from recipe.data.corpus import Corpus, Source, open_corpus
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import load_prepared
from recipe.data.tokenizer import KINDS, pieces, plain_backend, train_tokenizer
from recipe.system.errors import UserError
from recipe.system.progress import Progress


def quiet(corpus, tokenizer, folder, **options):
    return prepare_tokens(corpus, tokenizer, folder, **options)


def documents_of(tokens, separator):
    """The flat array split into its documents, each with its separator."""
    return [part.tolist() for part in np.split(tokens, np.flatnonzero(tokens == separator) + 1)[:-1]]


def expected(tokenizer, documents):
    return [
        [*plain_backend(tokenizer).encode(t, add_special_tokens=False).ids, tokenizer.sep_token_id] for t in documents
    ]


def test_every_document_is_stored_once_in_order_and_splits_are_by_document(bpe, text_file, documents, tmp_path):
    prepared = quiet(open_corpus(str(text_file)), bpe, tmp_path / "data", validation_percentage=10)
    train, validation = (documents_of(prepared.tokens(split), bpe.sep_token_id) for split in ("train", "validation"))
    everything = expected(bpe, documents)
    assert sorted(train + validation) == sorted(everything)
    assert train == [d for d in everything if d in train] and 8 <= len(validation) <= 35
    first_in_validation = [everything.index(d) for d in validation]
    assert max(first_in_validation) > 150  # not the head of the file
    about = prepared.splits["train"]
    assert about["tokens"] == len(prepared.tokens("train")) and about["documents"] == len(train)
    assert prepared.tokens("train").dtype == np.uint16
    np.testing.assert_array_equal(prepared.unigram_counts(), np.bincount(prepared.tokens("train"), minlength=len(bpe)))


def test_a_large_vocabulary_takes_four_bytes_per_token(bpe, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(type(bpe), "__len__", lambda self: 70_000)
    assert quiet(open_corpus(str(text_file)), bpe, tmp_path / "data").tokens("train").dtype == np.uint32


def test_a_validation_source_is_used_unchanged(bpe, tmp_path):
    for name, text in (("train.txt", "the cat\n\nsat"), ("valid.txt", "on a mat")):
        (tmp_path / name).write_text(text)
    prepared = quiet(open_corpus(str(tmp_path)), bpe, tmp_path / "data")
    assert documents_of(prepared.tokens("validation"), 2) == expected(bpe, ["on a mat"])
    assert documents_of(prepared.tokens("train"), 2) == expected(bpe, ["the cat", "sat"])


def test_the_split_depends_on_its_seed(bpe, text_file, tmp_path):
    corpus = open_corpus(str(text_file))
    splits = [quiet(corpus, bpe, tmp_path / "data", seed=seed).tokens("validation").tolist() for seed in (1, 2)]
    assert splits[0] != splits[1]


def test_tokens_are_made_once_and_again_for_other_text_or_another_tokenizer(bpe, wordpiece, text_file, tmp_path):
    first = quiet(open_corpus(str(text_file)), bpe, tmp_path / "data")
    stamp = (first.folder / "train.npy").stat().st_mtime_ns
    again = quiet(open_corpus(str(text_file)), bpe, tmp_path / "data")
    assert again.folder == first.folder and (again.folder / "train.npy").stat().st_mtime_ns == stamp
    assert quiet(open_corpus(str(text_file)), wordpiece, tmp_path / "data").folder != first.folder
    text_file.write_text(text_file.read_text() + "\n\none more document\n")
    changed = quiet(open_corpus(str(text_file)), bpe, tmp_path / "data")
    assert changed.folder != first.folder and changed.fingerprint != first.fingerprint


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "a token with a space"])
def test_long_documents_are_encoded_in_pieces_where_that_changes_no_token(kind, documents, tmp_path, monkeypatch):
    texts = [" ".join(documents), "  two  spaces\n\nand\tlines ", *documents[:40], "語" * 300]
    tokenizer = train_tokenizer(lambda: texts, kind=kind if kind in KINDS else "bpe", vocab_size=320, min_frequency=1)
    if kind not in KINDS:
        tokenizer.add_tokens(["the cat"])
    corpus = Corpus("toy", Source("train", {}, lambda: iter(texts)), Source("validation", {}, lambda: iter(texts)))
    whole = quiet(corpus, tokenizer, tmp_path / "whole").tokens("train")
    assert documents_of(whole, tokenizer.sep_token_id) == expected(tokenizer, texts)
    cut = []

    def cutting(text, size):
        cut.append(list(pieces(text, size)))
        return cut[-1]

    monkeypatch.setattr(recipe.data.preparation, "PIECE_CHARACTERS", 40)
    monkeypatch.setattr(recipe.data.preparation, "BATCH_CHARACTERS", 400)
    monkeypatch.setattr(recipe.data.preparation, "pieces", cutting)
    assert quiet(corpus, tokenizer, tmp_path / "pieces").tokens("train").tolist() == whole.tolist()
    assert max(map(len, cut), default=0) > 20 if kind in ("bpe", "wordpiece") else not cut


class Killed(BaseException):
    pass


def test_a_preparation_killed_anywhere_continues_to_the_same_tokens(bpe, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.preparation, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(recipe.data.preparation, "SECONDS_BETWEEN_PROGRESS", -1)
    calls, deadline = 0, None

    def stream():
        nonlocal calls
        for text in documents:
            calls += 1
            if deadline is not None and calls > deadline:
                raise Killed
            yield text

    validation = Source("validation", {"made": "here"}, lambda: iter(documents[:5]))
    corpus = Corpus("toy", Source("train", {"made": "up"}, stream), validation)
    uninterrupted = quiet(corpus, bpe, tmp_path / "whole")
    for first, second in ((3, 50), (60, 130), (199, 200)):
        for limit in (first, second):
            calls, deadline = 0, limit
            if limit < len(documents):
                with pytest.raises(Killed):
                    quiet(corpus, bpe, tmp_path / f"killed-{first}")
        deadline = None
        resumed = quiet(corpus, bpe, tmp_path / f"killed-{first}")
        assert resumed.splits == uninterrupted.splits
        assert not list(resumed.folder.parent.glob("*.partial"))


def test_tokens_written_after_the_saved_progress_are_cut_off(bpe, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.preparation, "BATCH_DOCUMENTS", 20)
    monkeypatch.setattr(recipe.data.preparation, "SECONDS_BETWEEN_PROGRESS", -1)

    def stream():
        yield from documents[:100]
        raise Killed

    corpus = Corpus("toy", Source("train", {}, stream), Source("validation", {}, lambda: iter(documents[:5])))
    with pytest.raises(Killed):
        quiet(corpus, bpe, tmp_path)
    (partial,) = tmp_path.glob("*.partial")
    with (partial / "train.npy").open("ab") as stream_file:
        stream_file.write(b"not covered by the progress")
    corpus = Corpus("toy", Source("train", {}, lambda: iter(documents)), corpus.validation)
    assert documents_of(quiet(corpus, bpe, tmp_path).tokens("train"), 2) == expected(bpe, documents)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "found no text"),
        ("one", "all 1 documents|none of the 1"),
        ("good\n\nbad \0 byte", "line 3: found a zero byte"),
    ],
)
def test_unusable_text_leaves_nothing_behind(bpe, tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        quiet(open_corpus(str(path)), bpe, tmp_path / "data")
    assert [p.suffix for p in (tmp_path / "data").iterdir()] in ([], [".lock"])


def test_a_changed_prepared_json_is_refused(bpe, text_file, tmp_path):
    prepared = quiet(open_corpus(str(text_file)), bpe, tmp_path / "data")
    described = json.loads((prepared.folder / "prepared.json").read_text())
    described["splits"]["train"]["tokens"] += 1
    (prepared.folder / "prepared.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"prepared\.json doesn't match its fingerprint: delete the folder"):
        load_prepared(prepared.folder)


def test_a_folder_that_is_not_writable_is_named(bpe, text_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write prepared tokens to"):
        quiet(open_corpus(str(text_file)), bpe, tmp_path / "file")


def test_progress_counts_from_the_beginning_after_an_earlier_stream(bpe, tmp_path, monkeypatch):
    lines = []

    class Recorded(Progress):
        def __exit__(self, *error):
            lines.append(self.line())
            super().__exit__(*error)

    monkeypatch.setattr("recipe.data.preparation.Progress", Recorded)
    (tmp_path / "text.txt").write_text("\n\n".join(toy_documents(200)))
    corpus = open_corpus(str(tmp_path / "text.txt"))
    list(corpus.train.documents())  # as the sample before it
    prepare_tokens(corpus, bpe, tmp_path / "data")
    assert "100 %" in lines[0] and "/s" in lines[0] and "0 s left" in lines[0]
