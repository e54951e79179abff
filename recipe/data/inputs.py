"""The corpus, tokenizer and prepared tokens that the arguments name: made once, reused by every run that needs them."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from recipe.data.arguments import DataArguments
from recipe.data.corpus import Corpus, open_corpus
from recipe.data.fertility import fertility, require_few_unknown, spread_sample, unknown_id_of
from recipe.data.filesystems import is_remote
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import TOKENIZER_FOLDER, PreparedTokens, load_prepared
from recipe.data.tokenizer import TRAIN, fingerprint, load_tokenizer, save_tokenizer, train_tokenizer
from recipe.model.arguments import ModelArguments
from recipe.model.families import FAMILIES
from recipe.system.errors import UserError
from recipe.system.progress import Progress

SPLIT_SEED = 42  # independent of the run's seed, so that eval losses of several seeds are comparable


def load_corpora(
    data: DataArguments, hub: ModelArguments, keep_linebreaks: bool = True, more: Iterable[str] = ()
) -> dict[str, Corpus]:
    """Opens the corpus that the arguments name, or the sources of the mixture that they name and of `more`; rank 0
    prints which files they consist of. Returns them by their datasets, as they were named.

    Without `keep_linebreaks`, the line breaks inside a document of a .txt file become spaces.
    """
    require_separate_folder("--prepared_dir", data.prepared_dir, data)
    corpora: dict[str, Corpus] = {}
    for dataset in dict.fromkeys([*(data.weights or [data.dataset_name]), *more]):
        corpora[dataset or ""] = _load_corpus(dataset, data, hub, keep_linebreaks)
    return corpora


def _load_corpus(dataset: str | None, data: DataArguments, hub: ModelArguments, keep_linebreaks: bool) -> Corpus:
    corpus = open_corpus(
        dataset,
        config=data.dataset_config_name,
        train_file=data.train_file,
        validation_file=data.validation_file,
        text_column=data.text_column,
        line_by_line=data.line_by_line,
        join_rows=data.join_rows,
        keep_linebreaks=keep_linebreaks,
        text_encoding=data.text_encoding,
        csv_delimiter=data.csv_delimiter,
        csv_quoting=data.csv_quoting,
        cache_dir=hub.cache_dir,
        token=hub.token,
        downloads=prepared_dir(data) / "downloads",
    )
    if os.environ.get("RANK", "0") == "0":
        for line in corpus.about:
            print(line, flush=True)
    return corpus


def short_names(corpora: Mapping[str, Corpus]) -> list[str]:
    """A name of each source for plan, log and metrics: that of its corpus, with a number where two have the same."""
    earlier: list[str] = []
    names = []
    for corpus in corpora.values():
        names.append(f"{corpus.name}_{earlier.count(corpus.name) + 1}" if corpus.name in earlier else corpus.name)
        earlier.append(corpus.name)
    return names


def require_separate_folder(flag: str, folder: str | Path, data: DataArguments) -> None:
    """Raises UserError where `folder`, which a run writes to, is inside a folder that is read as text: the next run
    would train on this run's files."""
    inside = Path(folder).expanduser().resolve()
    for name in (*(data.weights or [data.dataset_name]), data.train_file, data.validation_file):
        corpus = Path(name or "").expanduser()
        if name and not is_remote(name) and corpus.is_dir() and inside.is_relative_to(corpus.resolve()):
            raise UserError(
                f"found {flag} {folder} inside {name}, whose files are the text: choose a folder outside of it"
            )


def prepared_dir(data: DataArguments) -> Path:
    """The folder for downloads, tokenizers and prepared tokens. Raises UserError for a URL."""
    if is_remote(data.prepared_dir):
        raise UserError(
            f"found --prepared_dir {data.prepared_dir}, expected a local folder: prepare_data.py --upload_to copies "
            "prepared tokens to a URL, which can then be the DATASET"
        )
    return Path(data.prepared_dir).expanduser()


def load_or_train_tokenizer(
    model: ModelArguments, family: str, corpus: Corpus, parent: Path, needs: tuple[str, ...] = ("pad", "mask")
) -> PreTrainedTokenizerFast:
    """Loads the tokenizer that the arguments name and requires the special tokens that the run `needs`; the name
    "train" trains one on the corpus and saves it in `parent`, once.

    The kind trained is that of the model's `family`. Prepared tokens that were uploaded with their tokenizer are used
    with it, unless another one is named.
    """
    name = model.tokenizer_name or model.config_name or model.model_name_or_path
    if not model.use_fast_tokenizer:
        raise UserError("found --use_fast_tokenizer False: only fast tokenizers keep up with training; leave it out")
    if name == TRAIN and model.model_name_or_path:
        raise UserError(
            f"found --tokenizer_name train beside --model_name_or_path {model.model_name_or_path}: a checkpoint needs "
            "its own tokenizer; leave --tokenizer_name out"
        )
    source = model.model_name_or_path
    if source and name and name != source and (Path(source).expanduser() / "tokenizer.json").exists():
        given, own = load_tokenizer(name, needs, **model.hub_options()), load_tokenizer(source, needs)
        if fingerprint(given) != fingerprint(own):
            raise UserError(
                f"the tokenizer {name} isn't the one that {source} was trained with: leave --tokenizer_name out"
            )
    own = corpus.prepared / TOKENIZER_FOLDER if corpus.prepared else None
    if own and own.is_dir() and name in (TRAIN, None, model.config_name):
        return load_tokenizer(str(own), needs)
    if name != TRAIN:
        if name is None or (name.endswith(".json") and not model.tokenizer_name):
            raise UserError("found no --tokenizer_name: pass a hub id, a folder, or train")
        return load_tokenizer(name, needs, **model.hub_options())
    kind = FAMILIES[family].tokenizer
    origin = [corpus.train.description, kind, model.vocab_size, model.lowercase]
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:12]
    folder = parent / f"tokenizer-{corpus.name}-{kind}-{model.vocab_size}-{digest}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                print(f"Training a {kind} tokenizer of {model.vocab_size:,} tokens on {corpus.name} ...", flush=True)
                trained = train_tokenizer(
                    corpus.train.texts,
                    kind=kind,
                    vocab_size=model.vocab_size,
                    lowercase=model.lowercase,
                    meter=corpus.train.meter,
                )
                save_tokenizer(trained, folder)
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {folder}: {error.strerror}: pass --prepared_dir") from error
    return load_tokenizer(str(folder))


def load_or_prepare_tokens(data: DataArguments, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> PreparedTokens:
    """Opens the prepared tokens that `corpus` consists of, or prepares them (recipe.data.preparation).

    Raises UserError where more than 5 % of the training tokens are unknown to `tokenizer`; where a sample of the text
    shows it, before tokenising.
    """
    if corpus.prepared:
        prepared = load_prepared(corpus.prepared, tokenizer)
    else:
        prepared = prepare_tokens(
            corpus,
            tokenizer,
            prepared_dir(data),
            validation_percentage=data.validation_split_percentage,
            seed=SPLIT_SEED,
            rebuild=data.overwrite_cache,
            before_tokenising=lambda: _check_on_sample(corpus, tokenizer),
        )
    unknown_id, counts = unknown_id_of(tokenizer), prepared.unigram_counts()
    if unknown_id is not None:
        share = counts[unknown_id] / max(1, counts.sum())
        require_few_unknown(share, tokenizer, tokenizer.name_or_path, f"the training tokens of {prepared.folder}")
    return prepared


def _check_on_sample(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prints the tokenizer's fertility on a sample. Raises UserError where too many of its tokens are unknown."""
    if corpus.train.tokenised:
        return
    with Progress(f"counting tokens in a sample of {corpus.name}"):
        found = fertility(tokenizer, spread_sample(corpus.train.texts()))
    print(f"tokenizer  {found} in a sample of {corpus.name}", flush=True)
    require_few_unknown(
        found.unknown_share, tokenizer, tokenizer.name_or_path, f"the tokens in a sample of {corpus.name}"
    )
