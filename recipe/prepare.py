"""From the arguments to a tokenizer and prepared tokens: made once, reused by every run that asks for the same."""

import hashlib
import json
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from recipe.arguments import DataArguments, ModelArguments
from recipe.corpus import Corpus, open_corpus
from recipe.errors import UserError
from recipe.tokenizer import TRAIN, fingerprint, load_tokenizer, save_tokenizer, train_tokenizer
from recipe.tokens import PreparedTokens, prepare

SPLIT_SEED = 42  # one split for all seeds of a run, so that their eval losses compare


def corpus_of(data: DataArguments, hub: ModelArguments, keep_linebreaks: bool = True) -> Corpus:
    """The corpus that the arguments name; without `keep_linebreaks`, spaces take the place of those in a .txt."""
    return open_corpus(
        data.dataset_name,
        config=data.dataset_config_name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        text_column=data.text_column,
        line_by_line=data.line_by_line,
        keep_linebreaks=keep_linebreaks,
        cache_dir=hub.cache_dir,
        token=hub.token,
    )


def tokenizer_of(model: ModelArguments, family: str, corpus: Corpus, parent: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that the arguments name; `train` trains one on the corpus, once, and keeps it under `parent`.

    A bert model gets a WordPiece, every other family a byte-level BPE.
    """
    name = model.tokenizer_name or model.config_name or model.model_name_or_path
    if not model.use_fast_tokenizer:
        raise UserError("found --use_fast_tokenizer False: only fast tokenizers keep up with training; leave it out")
    if name == TRAIN and model.model_name_or_path:
        raise UserError(
            f"found --tokenizer_name train beside --model_name_or_path {model.model_name_or_path}: a checkpoint knows "
            "the tokens of its own tokenizer alone; leave --tokenizer_name out"
        )
    source = model.model_name_or_path
    if source and name != source and (Path(source).expanduser() / "tokenizer.json").exists():
        given, own = load_tokenizer(name, **model.hub_options()), load_tokenizer(source)
        if fingerprint(given) != fingerprint(own):
            raise UserError(
                f"the tokenizer {name} isn't the one that {source} was trained with: leave --tokenizer_name out"
            )
    if name != TRAIN:
        if name is None or name.endswith(".json"):
            raise UserError("found no --tokenizer_name: pass a hub id, a folder, or train")
        return load_tokenizer(name, **model.hub_options())
    kind = "wordpiece" if family == "bert" else "bpe"
    made_from = [corpus.train.description, kind, model.vocab_size, model.lowercase]
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    folder = parent / f"tokenizer-{corpus.name}-{kind}-{model.vocab_size}-{digest}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                print(f"Training a {kind} tokenizer of {model.vocab_size:,} tokens on {corpus.name} ...", flush=True)
                trained = train_tokenizer(
                    corpus.train.documents, kind=kind, vocab_size=model.vocab_size, lowercase=model.lowercase
                )
                save_tokenizer(trained, folder)
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {folder}: {error.strerror}: pass --prepared_dir") from error
    return load_tokenizer(str(folder))


def tokens_of(data: DataArguments, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, quiet: bool) -> PreparedTokens:
    """The prepared tokens of `corpus`; see `recipe.tokens.prepare`."""
    return prepare(
        corpus,
        tokenizer,
        Path(data.prepared_dir).expanduser(),
        validation_percentage=data.validation_split_percentage,
        seed=SPLIT_SEED,
        rebuild=data.overwrite_cache,
        show_progress=not quiet,
    )
