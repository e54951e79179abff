"""The tokenizer: loaded from the hub or a folder, or trained here on the corpus in bounded memory."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from recipe.data.alphabet import (
    ALPHABET,
    WORD_LETTERS,
    choose_alphabet,
    count_letters,
    cut_endless_words,
    is_own_word,
)
from recipe.data.meter import Meter
from recipe.data.tokenizer_files import open_tokenizer
from recipe.system.errors import UserError
from recipe.system.files import flush, publish_folder
from recipe.system.hub import is_local, require_hub, require_local_path
from recipe.system.progress import Progress

TRAIN = "train"  # the tokenizer name that trains one on the corpus
KINDS = ("bpe", "wordpiece", "unigram")
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # ids 0 to 4; the first four as in RoBERTa
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# More text hardly changes the merges; the counts of this text's distinct words fit in 2 GB.
MAX_TRAINING_CHARACTERS = 200_000_000
PIECE_CHARACTERS = 10_000
_SPACE = re.compile(r"(?<=\S) (?=\S)")
PAD = "<pad>"  # added to tokenizers without a pad token, such as GPT-2's
MAX_VOCAB_SIZE = 1 << 21  # the largest vocabularies in use have about one million tokens


def load_tokenizer(name: str, needs: tuple[str, ...] = ("pad", "mask"), **hub_options) -> PreTrainedTokenizerFast:
    """Loads the tokenizer `name`: a hub id, a folder or a file (recipe.data.tokenizer_files); `hub_options` are passed
    to `from_pretrained`.

    Raises UserError where there is none, where it isn't a fast one, where it lacks special tokens that the run `needs`
    or tokens that begin and end a sequence. Where only "pad" is needed and missing, it is added.
    """
    require_local_path(name, "tokenizer")
    if not is_local(name):
        require_hub(f"tokenizer {name}", "a local folder as TOKENIZER, or TOKENIZER=train to train one on the corpus")
    file = Path(name).expanduser() / "tokenizer.json"
    if os.path.lexists(file) and not file.is_file():  # transformers would ignore it and create an empty tokenizer
        raise UserError(f"cannot load the tokenizer {name}: tokenizer.json is not a file: replace it by a copy")
    tokenizer = open_tokenizer(name, **hub_options)
    if needs == ("pad",) and tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
        if os.environ.get("RANK", "0") == "0":
            print(f"tokenizer  {name} has no pad token: {PAD} was added, id {tokenizer.pad_token_id}")
    if missing := [role for role in needs if getattr(tokenizer, f"{role}_token_id") is None]:
        other = "; run_clm.py trains without a mask token" if "mask" in missing else ""
        tokens = ", ".join(f"'{role}_token': '<{role}>'" for role in missing)
        raise UserError(
            f"the tokenizer {name} has no {' and no '.join(missing)} token: expected one of RoBERTa's or BERT's kind, "
            f"or add them with tokenizer.add_special_tokens({{{tokens}}}) and save_pretrained{other}"
        )
    if needs:
        block_ends(tokenizer)
    return tokenizer


def block_ends(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """The ids of the tokens that begin and end every block: <s> and </s>, or [CLS] and [SEP]."""
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or last is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no token to begin and end a sequence: "
            "expected cls and sep, or bos and eos"
        )
    return first, last


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the Rust tokenizer that neither pads nor truncates and treats '</s>' in a text as text."""
    return _plain(tokenizer.backend_tokenizer.to_str())


def _plain(serialised: str) -> Tokenizer:
    backend = Tokenizer.from_str(serialised)
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    return backend


def words_end_at_spaces(backend: Tokenizer) -> bool:
    """Whether the tokens of a text are those of its `pieces`: true for byte-level BPE and BERT's pre-tokenizer, whose
    words don't contain spaces, unless ordinary tokens were added, which may."""
    words = backend.pre_tokenizer
    if isinstance(words, pre_tokenizers.Sequence):
        first, *others = list(words)  # pyright: ignore[reportArgumentType] (its stub has no __iter__)
        if all(isinstance(other, pre_tokenizers.FixedLength) for other in others):  # these split inside of words
            words = first
    known = isinstance(words, pre_tokenizers.BertPreTokenizer) or (
        isinstance(words, pre_tokenizers.ByteLevel) and words.use_regex
    )
    letters = backend.normalizer
    plain = letters is None or isinstance(letters, normalizers.BertNormalizer | normalizers.Lowercase)
    return known and plain and all(token.special for token in backend.get_added_tokens_decoder().values())


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """The sha256 of everything that determines the ids of a text."""
    return _fingerprint(tokenizer.backend_tokenizer.to_str(), block_ends(tokenizer))


@lru_cache(maxsize=4)
def _fingerprint(serialised: str, ends: tuple[int, int]) -> str:
    return hashlib.sha256(f"{_plain(serialised).to_str()}{ends}".encode()).hexdigest()


def train_tokenizer(
    documents: Callable[[], Iterable[str]],
    *,
    kind: str = "bpe",
    vocab_size: int = 8192,
    min_frequency: int = 2,
    lowercase: bool = False,
    max_characters: int = MAX_TRAINING_CHARACTERS,
    meter: Meter | None = None,
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer on the texts of `documents()`, which is called once per pass and counts its reading with
    `meter`.

    `kind` is "bpe" (byte-level, RoBERTa's special tokens), "wordpiece" (BERT's) or "unigram" (RoBERTa's). Text is used
    in order up to `max_characters`; `sample` draws a random part of a longer corpus. The result has `vocab_size`
    tokens, or fewer if the text is too small. The same text gives the same tokenizer, except for "unigram", whose
    trainer adds floats in no fixed order. Raises UserError where there is no text.
    """
    if kind not in KINDS:
        raise UserError(f"found the tokenizer kind {kind!r}, expected one of {', '.join(KINDS)}")
    specials = BERT_SPECIALS if kind == "wordpiece" else ROBERTA_SPECIALS
    floor = len(specials) + (256 if kind == "bpe" else 0)
    check_vocab_size(vocab_size, floor, "bytes and special tokens" if kind == "bpe" else "special tokens")
    characters = passes = 0
    total, unit = (meter.total, meter.unit) if meter else (None, "characters")
    if total and total > max_characters:  # reading stops before the end
        total, unit, meter = max_characters, "characters", None
    progress = Progress("", done=lambda: meter.done if meter else characters)

    def bounded() -> Iterator[str]:
        nonlocal characters, passes
        characters, passes = 0, passes + 1
        progress.what = f"reading text for the tokenizer, pass {passes} of {1 if kind == 'bpe' else 2}"
        progress.total, progress.unit = total, unit
        if meter:
            meter.done = 0
        progress.restart()
        for text in documents():
            if characters >= max_characters:
                break
            characters += len(text)
            yield from cut_endless_words(pieces(text))
        progress.what, progress.total, progress.unit = "computing the tokenizer's vocabulary", None, ""
        progress.restart()

    train = {"bpe": _byte_level_bpe, "wordpiece": _wordpiece, "unigram": _unigram}[kind]
    with progress:
        backend = train(bounded, vocab_size, min_frequency, lowercase)
    if characters == 0:
        raise UserError("found no text to train the tokenizer on")
    return _wrap(backend, kind, lowercase)


def check_vocab_size(vocab_size: int, floor: int = 0, of: str = "") -> None:
    """Raises UserError unless `floor` < `vocab_size` <= MAX_VOCAB_SIZE; `of` says what the `floor` tokens are."""
    if vocab_size <= floor:
        raise UserError(f"found VOCAB_SIZE {vocab_size}, expected more than {f'the {floor} {of}' if floor else 0}")
    if vocab_size > MAX_VOCAB_SIZE:
        raise UserError(
            f"found VOCAB_SIZE {vocab_size}, expected at most {MAX_VOCAB_SIZE:,}: 8,192 to 65,536 are usual sizes"
        )


def sample(documents: Iterable[str], share: float, seed: int, rest: bool = False) -> Iterator[str]:
    """A random `share` of the documents, in their order, drawn by `seed`; with `rest`, all others."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return (text for text in documents if (generator.random() < share) != rest)


def pieces(text: str, size: int | None = None) -> Iterator[str]:
    """Cuts `text` at single spaces into pieces of about `size` characters, which don't split a word.

    Trainers and encoders take about a hundred bytes per character of a text, too much for whole books. Text without
    single spaces is one piece.
    """
    size, start = size or PIECE_CHARACTERS, 0
    while space := _SPACE.search(text, start + size):
        yield text[start : space.start()]
        start = space.start()
    yield text[start:]


def _byte_level_bpe(texts: Callable[[], Iterable[str]], vocab_size: int, min_frequency: int, lowercase: bool):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=_with_mask(ROBERTA_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend


def _wordpiece(texts: Callable[[], Iterable[str]], vocab_size: int, min_frequency: int, lowercase: bool):
    """WordPiece from BPE merges with the prefix ##, as in the library's own trainer, but reproducible: that one numbers
    the letters with the prefix in the order of a hash map, so that ties between merges are broken differently each
    time.

    Where words of more than 100 letters are common (DNA, proteins, Thai), they are split every 100 letters: WordPiece
    would replace each of them by [UNK]."""
    backend = Tokenizer(models.BPE(continuing_subword_prefix="##"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters, long_words = count_letters(texts(), backend.normalizer, backend.pre_tokenizer)
    alone = {letter for letter in letters if is_own_word(letter, backend.normalizer, backend.pre_tokenizer)}
    kept = choose_alphabet(letters, lambda letter: 2 - (letter in alone), "wordpiece", vocab_size, len(BERT_SPECIALS))
    # ## before a letter that is always its own word is never used: such tokens are left out where the vocabulary is
    # full.
    has_spare_tokens = len(kept) <= ALPHABET and len(BERT_SPECIALS) + 2 * len(kept) < vocab_size
    kept = sorted(kept)
    inside = kept if has_spare_tokens else [letter for letter in kept if letter not in alone]
    if long_words:
        cut = pre_tokenizers.FixedLength(WORD_LETTERS)
        backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, cut])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*BERT_SPECIALS, *kept, *(f"##{letter}" for letter in inside)],
        limit_alphabet=len(kept),
        initial_alphabet=kept,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    learned = Tokenizer(models.WordPiece(backend.get_vocab(with_added_tokens=True), unk_token="[UNK]"))
    learned.normalizer, learned.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    learned.decoder = decoders.WordPiece()
    learned.add_special_tokens(list(BERT_SPECIALS))
    return learned


def _unigram(texts: Callable[[], Iterable[str]], vocab_size: int, min_frequency: int, lowercase: bool):
    backend = Tokenizer(models.Unigram())

    def normalizer():
        return normalizers.Sequence([normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])])

    backend.normalizer, own = normalizer(), normalizer()  # the trainer locks the first one while it reads
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    letters, _ = count_letters(texts(), backend.normalizer, backend.pre_tokenizer)
    specials = (*ROBERTA_SPECIALS, "▁")
    rare = set(letters).difference(choose_alphabet(letters, lambda _: 1, "unigram", vocab_size, len(specials)))
    rare = {ord(letter): " " for letter in rare if not letter.isspace()}
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=_with_mask(ROBERTA_SPECIALS),
        unk_token="<unk>",
        show_progress=False,
    )
    # The trainer puts every letter into the vocabulary, and fails where they don't fit.
    known = (own.normalize_str(text).translate(rare) for text in texts()) if rare else texts()
    backend.train_from_iterator(known, trainer)
    return backend


def _with_mask(specials: tuple[str, ...]) -> list[AddedToken | str]:
    """RoBERTa's mask token includes the space before it, so that "is <mask>" is filled with " Paris"."""
    return [AddedToken(s, lstrip=True, special=True) if s == "<mask>" else s for s in specials]


def _wrap(backend: Tokenizer, kind: str, lowercase: bool) -> PreTrainedTokenizerFast:
    def with_id(special: str) -> tuple[str, int]:
        number = backend.token_to_id(special)
        assert number is not None, "it was trained with its special tokens"
        return special, number

    if kind == "wordpiece":
        plain = isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        backend.post_processor = processors.BertProcessing(with_id("[SEP]"), with_id("[CLS]"))
        if plain:
            return BertTokenizer(tokenizer_object=backend, do_lower_case=lowercase, model_max_length=512)
        # BertTokenizer would replace this pre-tokenizer by its own when it is loaded.
        names = {f"{name[1:-1].lower()}_token": name for name in BERT_SPECIALS}
        inputs = list(BertTokenizer.model_input_names)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, model_max_length=512, model_input_names=inputs, **names
        )
    ends = with_id("</s>"), with_id("<s>")
    backend.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": AddedToken("<mask>", lstrip=True, special=True),
        "model_max_length": 512,
    }
    wrapper = RobertaTokenizer if kind == "bpe" and not lowercase else PreTrainedTokenizerFast
    return wrapper(tokenizer_object=backend, **names)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the tokenizer's files to `folder`, each of them atomically; a new folder appears complete or not at
    all."""
    partial = folder.with_name(folder.name + ".partial")
    tokenizer.save_pretrained(partial)
    if folder.exists():
        for file in partial.iterdir():
            flush(file)
            file.replace(folder / file.name)
        partial.rmdir()
        flush(folder)
    else:
        publish_folder(partial, folder)
