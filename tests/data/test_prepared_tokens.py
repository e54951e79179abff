"""Damaged prepared tokens are refused by name: small files when the folder is opened, the arrays' pages when read."""

import json
import os
import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from toy import toy_documents
from transformers import PreTrainedTokenizerFast

import recipe.data.preparation
import recipe.data.prepared_tokens
import run_clm
from recipe.data.blocks import Blocks
from recipe.data.corpus import Corpus, Source
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import CHECKSUMS, load_prepared
from recipe.data.token_arrays import PAGE, CheckedTokens, checksums_of, token_dtype
from recipe.data.tokenizer import block_ends
from recipe.finetune.examples import Examples, tokenise
from recipe.finetune.glue.rows import Rows
from recipe.finetune.qa.squad import Question, Questions
from recipe.finetune.qa.windows import cut_windows
from recipe.objective.causal import NextTokens
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking
from recipe.system.errors import RankError, UserError

FILES = ["checksums.json", "prepared.json", "train.crc32.npy", "train.npy", "unigram.npy", "validation.crc32.npy",
         "validation.npy"]  # fmt: skip


@pytest.fixture
def prepared(bpe, tmp_path):
    return made(bpe, tmp_path / "data")


def made(tokenizer, folder, documents=None):
    texts = documents or toy_documents(400)
    corpus = Corpus("toy", Source("train", {}, lambda: iter(texts)), Source("validation", {}, lambda: iter(texts[:40])))
    return prepare_tokens(corpus, tokenizer, folder)


def flip(file, place, bit=1):
    """Flips bits of the byte at `place`; by default the lowest, so that an id stays inside of the vocabulary."""
    content = bytearray(file.read_bytes())
    content[place] ^= bit
    file.write_bytes(content)


def test_a_folder_has_checksums_of_all_its_files(prepared):
    assert sorted(path.name for path in prepared.folder.iterdir()) == FILES
    assert set(json.loads((prepared.folder / CHECKSUMS).read_text())["files"]) == set(FILES) - {
        CHECKSUMS, "train.npy", "validation.npy"
    }  # fmt: skip
    pages = -(-(prepared.folder / "train.npy").stat().st_size // PAGE)
    assert pages > 4 and np.load(checksums_of(prepared.folder / "train.npy")).shape == (pages,)


@pytest.mark.parametrize("page", [0, 2, -1])
def test_a_flipped_bit_is_refused_when_its_page_is_read_and_nowhere_else(prepared, page):
    file = prepared.folder / "train.npy"
    size = file.stat().st_size
    page %= -(-size // PAGE)
    place = min(page * PAGE + 500, size - 2)
    flip(file, place)
    tokens = load_prepared(prepared.folder).checked("train")  # opening reads no page
    blocks = Blocks(tokens, 32, (0, 2), 1)
    damaged = {
        number
        for number in range(len(blocks))
        if (128 + number * 60) // PAGE <= page <= (128 + min((number + 1) * 60, 2 * len(tokens)) - 1) // PAGE
    }
    assert 30 < len(damaged) < 80
    for number in range(len(blocks)):
        if number in damaged:
            with pytest.raises(RankError, match=rf"train.npy is damaged: bytes {page * PAGE} to .*: delete the folder"):
                blocks.rows(np.array([number]))
        else:
            blocks.rows(np.array([number]))
    if page:
        np.testing.assert_array_equal(tokens[10:20], np.load(file)[10:20])
    with pytest.raises(RankError, match=r"train\.npy is damaged"):
        tokens[max(0, page * PAGE // 2 - 64) :]


def test_a_page_is_verified_once_for_a_process_and_its_forked_workers(prepared, monkeypatch):
    tokens, verified = prepared.checked("train"), []
    monkeypatch.setattr("recipe.data.token_arrays.zlib.crc32", lambda data: verified.append(1) or tokens.checksums[0])
    first = (np.array([5, 5]), np.array([9, 700]))
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        tokens.verified(*first)
        os._exit(len(verified) != 1)
    tokens.verified(*first)
    assert not verified
    again = pickle.loads(pickle.dumps(tokens))  # to a worker that isn't forked
    again.verified(*first)
    assert len(verified) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unigram.npy", "unigram.npy doesn't match its sha256"),
        ("prepared.json", r"prepared.json (is not JSON|doesn't match its fingerprint)"),
        ("train.crc32.npy", "train.crc32.npy doesn't match its sha256"),
        ("checksums.json", "doesn't match|is not JSON|unreadable|missing|bytes"),
    ],
)
def test_every_other_file_is_verified_at_the_start(prepared, name, message):
    file = prepared.folder / name
    good = file.read_bytes()
    for place in (len(good) // 3, len(good) // 2, len(good) - 5):
        flip(file, place)
        with pytest.raises(UserError, match=message) as error:
            load_prepared(prepared.folder)
        assert "\n" not in str(error.value) and "delete the folder" in str(error.value)
        file.write_bytes(good)
    load_prepared(prepared.folder)


@pytest.mark.parametrize("name", ["train.npy", "validation.npy", "unigram.npy", "prepared.json"])
@pytest.mark.parametrize("how", ["empty", "cut", "longer", "missing", "a folder"])
def test_a_missing_file_or_one_of_another_size_is_named(prepared, name, how):
    file = prepared.folder / name
    good = file.read_bytes()
    if how in ("missing", "a folder"):
        file.unlink()
        if how == "a folder":
            file.mkdir()
    else:
        file.write_bytes({"empty": b"", "cut": good[:-2], "longer": good + b"\0\0"}[how])
    before = sorted(prepared.folder.parent.rglob("*"))
    with pytest.raises(UserError, match=f"{name}.*delete the folder|delete the folder.*") as error:
        load_prepared(prepared.folder)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert sorted(prepared.folder.parent.rglob("*")) == before


def test_without_prepared_json_nothing_is_tokenised_again(bpe, prepared, monkeypatch):
    (prepared.folder / "prepared.json").unlink()
    monkeypatch.setattr(recipe.data.preparation, "_Preparation", None)
    with pytest.raises(UserError, match=r"has no prepared.json: delete the folder"):
        made(bpe, prepared.folder.parent)


def remove_checksums(folder):
    for name in FILES[::-1]:
        if "crc32" in name or name == CHECKSUMS:
            (folder / name).unlink()


def test_a_folder_without_checksums_is_read_completely_once(prepared, capsys):
    before = {path.name: path.read_bytes() for path in prepared.folder.iterdir()}
    remove_checksums(prepared.folder)
    load_prepared(prepared.folder)
    assert "all of it is read, once" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in prepared.folder.iterdir()} == before
    load_prepared(prepared.folder)
    assert "all of it is read" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train.npy", "validation.npy", "unigram.npy"])
def test_damage_in_a_folder_without_checksums_is_found(prepared, name):
    remove_checksums(prepared.folder)
    flip(prepared.folder / name, 500)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{name} (has the sha256|does not hold the counts)"):
            load_prepared(prepared.folder)
    assert sorted(path.name for path in prepared.folder.iterdir()) == [
        name for name in FILES if "crc32" not in name and name != CHECKSUMS
    ]


def test_a_read_only_folder_without_checksums_is_read_completely_each_time(prepared, monkeypatch, capsys):
    remove_checksums(prepared.folder)
    before = sorted(prepared.folder.parent.rglob("*"))
    monkeypatch.setattr(recipe.data.prepared_tokens.os, "access", lambda *_: False)
    for _ in range(2):
        tokens = load_prepared(prepared.folder).checked("train")
        assert "all of it is read, at each start" in capsys.readouterr().out and not isinstance(tokens, CheckedTokens)
    assert sorted(prepared.folder.parent.rglob("*")) == before
    flip(prepared.folder / "train.npy", 500)
    with pytest.raises(UserError, match=r"train\.npy has the sha256"):
        load_prepared(prepared.folder)


@pytest.mark.parametrize("damage", ["the tokens", "the progress", "progress of an earlier version"])
def test_a_preparation_with_damaged_tokens_or_progress_starts_over(
    bpe, documents, tmp_path, monkeypatch, damage, capsys
):
    monkeypatch.setattr(recipe.data.preparation, "BATCH_DOCUMENTS", 20)
    monkeypatch.setattr(recipe.data.preparation, "SECONDS_BETWEEN_PROGRESS", -1)

    class Killed(BaseException):
        pass

    def stream():
        yield from documents[:100]
        raise Killed

    validation = Source("validation", {}, lambda: iter(documents[:5]))
    with pytest.raises(Killed):
        prepare_tokens(Corpus("toy", Source("train", {}, stream), validation), bpe, tmp_path)
    (partial,) = tmp_path.glob("*.partial")
    progress = partial / "progress.json"
    if damage == "the tokens":
        flip(partial / "train.npy", 200)
    elif damage == "the progress":
        text = progress.read_text()
        progress.write_text(text.replace('"read": 100', '"read": 101').replace('"read": 80', '"read": 81'))
    else:
        progress.write_text('{"source": 0, "documents": {}, "tokens": {}, "read": 0}')
    corpus = Corpus("toy", Source("train", {}, lambda: iter(documents)), validation)
    resumed = prepare_tokens(corpus, bpe, tmp_path)
    assert "the preparation starts over" in capsys.readouterr().out
    assert resumed.splits == prepare_tokens(corpus, bpe, tmp_path / "whole").splits


def test_no_step_uses_damaged_tokens(run, tmp_path):
    assert run()[0] == 0
    (folder,) = (path.parent for path in (tmp_path / "data").rglob("prepared.json"))
    train, validation = folder / "train.npy", folder / "validation.npy"
    flip(train, 900)
    flags = ("--max_steps", "8", "--allow_changed", "max_steps")
    for program in ((), ("--dataloader_num_workers", "2")):
        with pytest.raises(RankError) as error:
            run(*flags, *program)
        assert str(error.value).startswith(f"{train} is damaged: bytes 0 to ") and "\n" not in str(error.value)
    with pytest.raises(RankError, match=r"train\.npy is damaged"):
        run("--output_dir", str(tmp_path / "clm"), program=run_clm)
    with pytest.raises(RankError, match=r"train\.npy is damaged"):
        run("--output_dir", str(tmp_path / "short"), "--short_seq_length", "16", "--short_seq_share", "0.5")
    assert not list(tmp_path.glob("*/checkpoint-6")) and not list((tmp_path / "short").glob("checkpoint-*"))
    flip(train, 900)
    flip(validation, 300)
    with pytest.raises(RankError, match=r"validation\.npy is damaged: bytes 0"):
        run(*flags, do_train=False)
    flip(validation, 300)
    assert run(*flags)[0] == 0


@pytest.mark.parametrize(("vocabulary", "kind"), [(65_535, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_ids_are_stored_in_an_integer_type_that_holds_them(vocabulary, kind, tmp_path, monkeypatch):
    assert token_dtype(vocabulary) is kind and token_dtype(250_002) is np.uint32
    for module in (
        "data.preparation",
        "finetune.examples",
        "finetune.qa.windows",
    ):  # it takes a second for this vocabulary
        monkeypatch.setattr(f"recipe.{module}.fingerprint", lambda tokenizer: str(len(tokenizer)))
    tokenizer, last = words_by_number(vocabulary), vocabulary - 1
    text = f"w{last} w7 w{last}"
    ids = [last, 7, last]

    texts = Source("train", {}, lambda: iter([text] * 20))
    rows = Source("train", {"ids": 1}, lambda: iter([np.array(ids)] * 20), tokenised=True)
    for source in (texts, rows):
        corpus = Corpus("toy", source, Source("validation", source.description, source.documents, source.tokenised))
        prepared = prepare_tokens(corpus, tokenizer, tmp_path)
        assert prepared.tokens("train").dtype == kind and prepared.unigram_counts()[last] == 40
        blocks = Blocks(prepared.checked("train"), 10, block_ends(tokenizer), tokenizer.pad_token_id)
        masking = Masking(vocabulary, 4, 1, (0, 1, 2, 3, 4), 0, 0.2, mask_replace_prob=0, random_replace_prob=0)
        batch = MaskedSequences(blocks, masking, None)[0]
        assert batch["input_ids"][0].tolist() == [0, *ids, 2, *ids, 2, 2]
        assert set(batch["labels"][0].tolist()) <= {last, 7, -100}
        assert NextTokens(Blocks(prepared.checked("train"), 9, (0, None), 1), None)[0]["labels"][0, 0] == last

    for name in ("made", "kept"):
        arrays = tokenise(Rows(([text, "w7"],), [0, 1], "toys"), tokenizer, 16, tmp_path / "glue")
        examples = Examples(arrays, [0, 1], pad_id=1, regression=False, token_types=False)
        assert arrays["ids"].dtype == kind and examples[0]["input_ids"][0].tolist() == [0, *ids, 2], name
        question = Question("1", f"w{last}", f"w7 w{last} w9", None)
        windows = cut_windows(Questions([question], "toys"), tokenizer, 32, 8, tmp_path / "qa")
        batch = windows.examples(None, pad_id=1, token_types=False)[0]["input_ids"][0].tolist()
        assert windows.ids.dtype == kind and batch.count(last) == 2 and 0 <= min(batch) <= max(batch) == last, name


def words_by_number(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` tokens: after five special tokens, the word w5 has the id 5 and so on."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = {word: n for n, word in enumerate([*specials, *(f"w{n}" for n in range(5, count))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
