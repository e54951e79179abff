"""Tokenizer files of other programs give the same ids as the tokenizer they come from, or an error of one line."""

import importlib.util
import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer

import prepare_data
import run_clm
import train_tokenizer as script
from recipe.data.tokenizer import block_ends, fingerprint, load_tokenizer, save_tokenizer, train_tokenizer
from recipe.system.errors import UserError

TEXT = "the cat sat on a Mat, re-tied naïve: it's 1984!"


@pytest.fixture(scope="module")
def unigram(documents):
    return train_tokenizer(lambda: documents, kind="unigram", vocab_size=100)


@pytest.fixture(scope="module")
def gpt2(documents):
    """A byte-level BPE with GPT-2's one special token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(documents, trainer)
    return backend


def write_vocabulary(tokenizer, folder, **files):
    """Writes the vocab.txt of a WordPiece tokenizer and JSON `files` beside it; returns the folder."""
    folder.mkdir()
    vocabulary = tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def same(loaded, tokenizer, mask_takes_its_space: bool = True) -> None:
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert loaded(TEXT, TEXT)["input_ids"] == tokenizer(TEXT, TEXT)["input_ids"]
    masked = f"the {tokenizer.mask_token} sat"
    assert not mask_takes_its_space or loaded(masked)["input_ids"] == tokenizer(masked)["input_ids"]
    assert block_ends(loaded) == block_ends(tokenizer)
    for role in ("pad", "mask", "unk"):
        assert getattr(loaded, f"{role}_token_id") == getattr(tokenizer, f"{role}_token_id") is not None
    assert set(loaded.all_special_ids) == set(tokenizer.all_special_ids)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_single_tokenizer_json(kind, request, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    (tmp_path / "bare").mkdir()
    tokenizer.backend_tokenizer.save(str(tmp_path / "bare" / "tokenizer.json"))
    shutil.copy(tmp_path / "bare" / "tokenizer.json", tmp_path / "ours.json")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    content = json.loads(backend.to_str()) | {"post_processor": None}  # adds no <s> and </s>
    (tmp_path / "plain.json").write_text(json.dumps(content))
    for name in ("bare", "bare/tokenizer.json", "ours.json", "plain.json"):
        loaded = load_tokenizer(str(tmp_path / name))
        same(loaded, tokenizer)
        save_tokenizer(loaded, tmp_path / "saved")
        assert fingerprint(AutoTokenizer.from_pretrained(tmp_path / "saved")) == fingerprint(loaded)
        shutil.rmtree(tmp_path / "saved")


def test_vocab_txt_alone_or_beside_files_of_older_versions_of_transformers(wordpiece, tmp_path):
    roles = {f"{token[1:-1].lower()}_token": token for token in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")}
    folders = [
        write_vocabulary(wordpiece, tmp_path / "alone"),
        write_vocabulary(wordpiece, tmp_path / "model", config={"model_type": "bert"}),
        write_vocabulary(
            wordpiece, tmp_path / "slow", tokenizer_config={"do_lower_case": False}, special_tokens_map=roles
        ),
    ]
    for name in (*folders, folders[0] / "vocab.txt"):
        same(load_tokenizer(str(name)), wordpiece)


def test_the_casing_is_determined_by_the_vocabulary(documents, wordpiece, tmp_path):
    lower = train_tokenizer(lambda: documents, kind="wordpiece", vocab_size=100, min_frequency=1, lowercase=True)
    same(load_tokenizer(str(write_vocabulary(lower, tmp_path / "lower"))), lower)
    given = write_vocabulary(wordpiece, tmp_path / "given", tokenizer_config={"do_lower_case": True})
    assert load_tokenizer(str(given)).tokenize("CAT") == load_tokenizer(str(given)).tokenize("cat")


def test_vocab_json_and_merges_txt(bpe, tmp_path):
    for name in ("alone", "model"):
        (tmp_path / name).mkdir()
        bpe.backend_tokenizer.model.save(str(tmp_path / name))
    (tmp_path / "model" / "config.json").write_text('{"model_type": "roberta"}')
    for name in ("alone", "model", "alone/vocab.json", "alone/merges.txt"):
        # With a config beside them, transformers reads them; its mask token has no lstrip.
        same(load_tokenizer(str(tmp_path / name)), bpe, mask_takes_its_space=name != "model")


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_vocab_json_or_merges_txt_alone_is_refused(bpe, tmp_path, missing):
    bpe.backend_tokenizer.model.save(str(tmp_path))
    (tmp_path / missing).unlink()
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')  # transformers would use no merges
    with pytest.raises(UserError, match=f"without {missing}: copy that file, too"):
        load_tokenizer(str(tmp_path))


def test_unusable_files_are_refused_in_one_line(tmp_path, wordpiece, bpe):
    words = write_vocabulary(wordpiece, tmp_path / "words")
    lines = (words / "vocab.txt").read_text().replace("[MASK]", "[mask]")
    (words / "vocab.txt").write_text(lines)
    clip, robust = (tmp_path / name for name in ("clip", "robust"))
    for folder, vocabulary in ((clip, {"a</w>": 0, "<s>": 1}), (robust, {"<s>": 0, "Ġa": 1, "</s>": 2, "<unk>": 3})):
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "text.txt").write_text("the cat")
    for name, message in (
        ("words", r"vocab.txt has no token \[MASK\], which a BERT vocabulary has"),
        ("clip", "is not a byte-level vocabulary"),
        ("robust", "vocab.json has no token <pad>, <mask>, which a RoBERTa vocabulary has"),
        ("config.json", "config.json is not a tokenizer: expected a tokenizer's folder, a tokenizer.json"),
        ("broken.json", "broken.json is not a tokenizer"),
        ("text.txt", "text.txt is not a tokenizer"),
        (".", "found no tokenizer.json, vocab.txt, vocab.json with merges.txt or SentencePiece .model in it"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_tokenizer(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_the_tokenizer_of_gpt2_works_for_causal_models_only(
    gpt2, tmp_path, run, write_config, monkeypatch, capsys, text_file
):
    GPT2Tokenizer(tokenizer_object=gpt2).save_pretrained(tmp_path / "whole")
    for name in ("files", "bare"):
        (tmp_path / name).mkdir()
    gpt2.model.save(str(tmp_path / "files"))
    gpt2.save(str(tmp_path / "bare" / "tokenizer.json"))
    for name in ("whole", "files", "bare"):
        with pytest.raises(UserError, match=r"has no pad and no mask token.*; run_clm.py trains without a mask token"):
            load_tokenizer(str(tmp_path / name))
        loaded = load_tokenizer(str(tmp_path / name), needs=("pad",))
        assert loaded.pad_token_id == 320 and block_ends(loaded) == (0, 0)
        assert len(load_tokenizer(str(tmp_path / name), needs=())) == 320
    flags = ("--tokenizer_name", str(tmp_path / "whole"))
    with pytest.raises(UserError, match="has no pad and no mask token"):
        run(*flags, family="bert")
    with pytest.raises(UserError, match=r"pad token has id 320.*--config_overrides pad_token_id=320"):
        run(*flags, family="bert", program=run_clm)
    run(*flags, "--config_overrides", "pad_token_id=320", "--max_steps", "2", family="bert", program=run_clm)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint-2").pad_token_id == 320
    argv = ["--train_file", text_file, "--output_dir", "new", "--vocab_size", 300, "--compare", "whole"]
    monkeypatch.setattr("sys.argv", ["train_tokenizer.py", *map(str, argv)])
    script.main()
    assert " whole " in capsys.readouterr().out


def test_a_run_accepts_the_path_of_a_tokenizer_json(bpe, tmp_path, run):
    bpe.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    code, _ = run("--tokenizer_name", str(tmp_path / "tokenizer.json"), "--max_steps", "2")
    assert code == 0
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path / "run")) == fingerprint(bpe)
    with pytest.raises(UserError, match="found no --tokenizer_name"):
        run("--tokenizer_name", None, "--output_dir", str(tmp_path / "other"))


def test_an_unsupported_model_type_is_refused(run, monkeypatch, tmp_path):
    message = "found --model_type gpt2, expected one of roberta, bert, modernbert"
    for program in (None, run_clm):
        with pytest.raises(UserError, match=message):
            run("--model_type", "gpt2", "--config_name", None, **({"program": program} if program else {}))
    monkeypatch.setattr(
        "sys.argv", ["prepare_data.py", "--model_type", "gpt2", "--train_file", str(tmp_path / "corpus.txt")]
    )
    with pytest.raises(UserError, match=message):
        prepare_data.main()


# ---- SentencePiece

PIECES = {  # file: (kind, trainer settings)
    "spiece.model": ("unigram", {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]"],
                                 "user_defined_symbols": ["[MASK]"]}),
    "sentencepiece.bpe.model": ("bpe", {}),
    "tokenizer.model": ("unigram", {"pad_id": 3, "user_defined_symbols": ["<mask>"]}),
    "mine.model": ("bpe", {"pad_id": 3, "user_defined_symbols": ["<mask>"]}),
    "spm.model": ("bpe", {"byte_fallback": True}),
}  # fmt: skip
OWN_LAYOUT = ("tokenizer.model", "mine.model")  # in the layout of no class in transformers


@pytest.fixture(scope="module")
def pieces(tmp_path_factory, documents):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text.txt").write_text("\n".join(documents))
    for name, (kind, settings) in PIECES.items():
        (folder / name.removesuffix(".model")).mkdir()
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text.txt"), model_prefix=str(folder / name.removesuffix(".model") / name.removesuffix(".model")),
            vocab_size=350 if "byte_fallback" in settings else 80, model_type=kind, minloglevel=2, hard_vocab_limit=False,
            **settings,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "mine.model"])
def test_sentencepiece_models(pieces, name, tmp_path):
    import sentencepiece

    folder = pieces / name.removesuffix(".model")
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    for path in (folder / name, folder) if name != "mine.model" else (folder / name,):
        loaded = load_tokenizer(str(path))
        for text in ("the cat sat on a mat", *((" it's  1984!  ", "naïve\n dogs") if name in OWN_LAYOUT else ())):
            assert loaded.tokenize(text) == own.encode(text, out_type=str)
        save_tokenizer(loaded, tmp_path / "saved")
        same(AutoTokenizer.from_pretrained(tmp_path / "saved"), loaded)
        assert loaded.mask_token in ("<mask>", "[MASK]") and loaded.pad_token == "<pad>"
        ids = loaded("the cat")["input_ids"]
        assert (ids[0], ids[-1]) == block_ends(loaded)
        assert loaded.decode(ids, skip_special_tokens=True).strip() == "the cat"


def test_a_sentencepiece_model_without_pad_and_mask_is_refused(pieces):
    with pytest.raises(UserError, match="has no pad and no mask token"):
        load_tokenizer(str(pieces / "spm"))


@pytest.mark.parametrize("name", PIECES)
def test_a_missing_sentencepiece_package_is_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == "sentencepiece" else found(wanted))
    for path in (tmp_path / name, tmp_path) if name != "mine.model" else (tmp_path / name,):
        with pytest.raises(
            UserError, match=f"{name} is a SentencePiece model, which needs a package: pip install sentencepiece"
        ):
            load_tokenizer(str(path))
