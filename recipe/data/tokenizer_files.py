"""Tokenizer file formats: a folder of transformers, a bare tokenizer.json, vocabulary files of BERT, RoBERTa and GPT-2,
or a SentencePiece model; each is opened as a fast tokenizer with its special tokens."""

import importlib.util
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from recipe.system.errors import UserError

TOKENIZER, SETTINGS, WORDPIECE, BPE, MERGES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
# The usual names of special tokens, used where no file says which token has which role.
USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]"),
    "mask": ("<mask>", "[MASK]"),
    "unk": ("<unk>", "[UNK]"),
    "cls": ("<s>", "[CLS]", "<cls>"),
    "sep": ("</s>", "[SEP]", "<eos>"),
    "bos": ("<|endoftext|>",),
    "eos": ("<|endoftext|>",),
}
BERT_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_NAMES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def open_tokenizer(name: str, **hub_options) -> PreTrainedTokenizerFast:
    """Opens the tokenizer in a folder, a file or a hub repository. Raises UserError for unusable files."""
    path = Path(name).expanduser()
    if path.is_file() and path.name in (TOKENIZER, WORDPIECE, BPE, MERGES):
        path = path.parent
    try:
        if path.is_file():
            tokenizer = _from_file(path)
        elif path.is_dir():
            tokenizer = _from_folder(path, **hub_options)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, **hub_options)
    except UserError:
        raise
    except Exception as error:  # libraries raise OSError, ValueError, KeyError ... for the same problem
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load the tokenizer {name}: {reason}: pass a hub id or a tokenizer's folder") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {name} has no tokenizer.json: convert it to a fast one")
    _set_special_tokens(tokenizer)
    tokenizer.name_or_path = tokenizer.name_or_path or name
    return tokenizer


def _from_file(path: Path) -> PreTrainedTokenizerFast:
    if path.suffix == ".model":
        return _from_sentencepiece(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not (isinstance(content, dict) and isinstance(content.get("model"), dict)):
        raise UserError(
            f"{path} is not a tokenizer: expected a tokenizer's folder, a tokenizer.json, vocab.txt, vocab.json beside "
            "merges.txt, or a SentencePiece .model"
        )
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


def _from_folder(folder: Path, **hub_options) -> PreTrainedTokenizerFast:
    def has(name: str) -> bool:
        return (folder / name).is_file()

    pieces = next((folder / name for name in PIECES if has(name)), None)
    if not has(TOKENIZER):
        if has(BPE) != has(MERGES):
            found, missing = (BPE, MERGES) if has(BPE) else (MERGES, BPE)
            raise UserError(f"the tokenizer {folder} has {found} without {missing}: copy that file, too")
        if not (has(BPE) or has(WORDPIECE) or pieces):
            raise UserError(
                f"cannot load the tokenizer {folder}: found no tokenizer.json, vocab.txt, vocab.json with merges.txt "
                "or SentencePiece .model in it: pass a hub id or a tokenizer's folder"
            )
        if pieces:
            _require_sentencepiece(pieces)
        if not _names_its_class(folder):
            if has(BPE):
                return _from_merges(folder)
            if has(WORDPIECE):
                return _from_wordpiece(folder)
            if pieces:
                return _from_sentencepiece(pieces)
        if has(WORDPIECE):
            hub_options |= _casing(folder)
    return AutoTokenizer.from_pretrained(str(folder), **hub_options)


def _names_its_class(folder: Path) -> bool:
    """Whether a file in the folder names the transformers class of its tokenizer."""
    return bool(
        _read_json(folder / SETTINGS).get("tokenizer_class") or _read_json(folder / "config.json").get("model_type")
    )


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _from_wordpiece(folder: Path) -> PreTrainedTokenizerFast:
    _require_tokens(folder / WORDPIECE, _lines(folder / WORDPIECE), BERT_NAMES, "a BERT vocabulary")
    return BertTokenizer.from_pretrained(str(folder), **_casing(folder))


def _casing(folder: Path) -> dict:
    """The option do_lower_case, by whether the vocabulary has capital letters; {} where a file already sets it. BERT's
    class lowercases by default, and a cased vocabulary has fewer lower-case words."""
    if "do_lower_case" in _read_json(folder / SETTINGS):
        return {}
    words = (word for word in _lines(folder / WORDPIECE) if not (word.startswith("[") and word.endswith("]")))
    return {"do_lower_case": all(word == word.lower() for word in words)}


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")


def _from_merges(folder: Path) -> PreTrainedTokenizerFast:
    vocabulary = _read_json(folder / BPE)
    if not any(token.startswith("Ġ") for token in vocabulary):
        raise UserError(
            f"{folder / BPE} is not a byte-level vocabulary (no token begins with Ġ): expected files of RoBERTa or "
            "GPT-2, or a tokenizer.json"
        )
    if "<|endoftext|>" in vocabulary and "<s>" not in vocabulary:
        return GPT2Tokenizer.from_pretrained(str(folder))
    _require_tokens(folder / BPE, vocabulary, ROBERTA_NAMES, "a RoBERTa vocabulary")
    mask = {} if (folder / SETTINGS).exists() else {"mask_token": AddedToken("<mask>", lstrip=True, special=True)}
    return RobertaTokenizer.from_pretrained(str(folder), **mask)


def _require_tokens(file: Path, vocabulary, names: tuple[str, ...], what: str) -> None:
    if missing := [name for name in names if name not in vocabulary]:
        raise UserError(f"{file} has no token {', '.join(missing)}, which {what} has: add it, or pass a tokenizer.json")


def _require_sentencepiece(model: Path) -> None:
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError(f"{model} is a SentencePiece model, which needs a package: pip install sentencepiece")


def _from_sentencepiece(model: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a SentencePiece model: in the layout of XLM-RoBERTa by its file name, of ALBERT by its special
    tokens, or its own."""
    _require_sentencepiece(model)
    if model.name == "sentencepiece.bpe.model":
        return XLMRobertaTokenizer.from_pretrained(str(model.parent))
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(model))
    if all(pieces.piece_to_id(name) != pieces.unk_id() for name in ("[CLS]", "[SEP]", "[MASK]")):
        return AlbertTokenizer.from_pretrained(str(model.parent))
    parts = PreTrainedTokenizerFast.convert_to_native_format(vocab_file=str(model))
    _restore_space_rules(parts["tokenizer_object"], SentencePieceExtractor(str(model)).proto)
    return PreTrainedTokenizerFast(**parts)


def _restore_space_rules(backend: Tokenizer, proto) -> None:
    """Applies the model's rules for spaces to `backend` (in place). transformers ignores two of them: the space put
    before a text, without which the first word has other tokens, and the merging of consecutive spaces."""
    rules = proto.normalizer_spec
    steps = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if rules.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    bytes_too = [decoders.ByteFallback(), decoders.Fuse()] if proto.trainer_spec.byte_fallback else []
    backend.decoder = decoders.Sequence([*bytes_too, decoders.Metaspace(prepend_scheme=scheme)])


def _set_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """Sets the special tokens that no file names, if there are tokens with the usual names; adds them to both ends of a
    sequence if nothing is added there yet."""
    backend, missing = tokenizer.backend_tokenizer, {}
    ends = {"cls": "bos", "sep": "eos", "bos": "cls", "eos": "sep"}  # one of each pair suffices
    for role, names in USUAL_NAMES.items():
        given = (getattr(tokenizer, f"{kind}_token") for kind in (role, ends.get(role, role)))
        if any(token is not None for token in given) or ends.get(role) in missing:
            continue
        if found := next((name for name in names if backend.token_to_id(name) is not None), None):
            missing[role] = found
    if not missing or set(missing) == {"unk"}:  # a byte-level BPE with an <unk> in its vocabulary never uses it
        return
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}  # keeps the mask's lstrip
    tokenizer.add_special_tokens({f"{role}_token": added.get(name, name) for role, name in missing.items()})
    begin, end = tokenizer.cls_token or tokenizer.bos_token, tokenizer.sep_token or tokenizer.eos_token
    if begin is None or end in (None, begin) or backend.num_special_tokens_to_add(False):
        return
    begin, end = ((token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end))
    if begin[0] == "[CLS]":
        backend.post_processor = processors.BertProcessing(end, begin)
    else:
        trim = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        backend.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=trim, add_prefix_space=False)
