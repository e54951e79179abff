#!/usr/bin/env python3
"""Trains a tokenizer on a corpus: byte-level BPE or unigram with RoBERTa's special tokens, or WordPiece with BERT's.

The text is streamed: memory grows only with the number of distinct words. At most the first --max_characters are read;
--sample_share draws documents from the whole corpus. A report on held-out text ends the output: tokens per word, bytes
per token and unknown tokens.

    python train_tokenizer.py --dataset_name my_corpus/ \\
        --output_dir my_tokenizer --vocab_size 16384
    TOKENIZER=my_tokenizer DATASET=my_corpus bash pretrain.sh

    python train_tokenizer.py --dataset_name my_corpus/ --output_dir uncased \\
        --model wordpiece --lowercase --compare bert-base-uncased
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.data.arguments import DataArguments
from recipe.data.corpus import Corpus, joined
from recipe.data.fertility import fertility, fertility_table, require_few_unknown, spread_sample
from recipe.data.inputs import load_corpora
from recipe.data.tokenizer import (
    KINDS,
    MAX_TRAINING_CHARACTERS,
    load_tokenizer,
    sample,
    save_tokenizer,
    train_tokenizer,
)
from recipe.model.arguments import HubArguments
from recipe.system.errors import UserError
from recipe.system.hub import require_hub_for_pushing
from recipe.system.progress import Progress

MIN_FREQUENCY = 2


@dataclass
class TokenizerArguments:
    """Which kind of tokenizer to train, on how much text, and where to write it."""

    output_dir: str = option("", "Folder of the new tokenizer. Required.")
    overwrite_output_dir: bool = option(False, "Replace a tokenizer that --output_dir has already.")
    model: str = option("bpe", f"Algorithm: {', '.join(KINDS)}.")
    vocab_size: int = option(8192, "Number of tokens, special tokens included; at most 2,097,152.")
    min_frequency: int = option(MIN_FREQUENCY, "Occurrences that a merge needs; not used by unigram.")
    lowercase: bool = option(False, "Let the tokenizer lower-case its text.")
    max_characters: int = option(MAX_TRAINING_CHARACTERS, "Train on at most this many characters.")
    sample_share: float = option(1.0, "Share of the documents to train on, drawn with --seed.")
    held_out: float = option(0.05, "Share of the documents held out for the report, if there is no validation text.")
    compare: list[str] = field(
        default_factory=list, metadata={"help": "Tokenizers to compare with in the report: folders or hub ids."}
    )
    seed: int = option(42, "Seed of the sample and of the held-out documents.")
    push_to_hub: str | None = option(None, "Repository on the hub to push the tokenizer to.")

    def __post_init__(self):
        if self.model not in KINDS:
            raise UserError(f"found --model {self.model}, expected one of {', '.join(KINDS)}")
        if not self.output_dir:
            raise UserError("found no --output_dir: name a folder for the tokenizer")
        if not self.overwrite_output_dir and (Path(self.output_dir).expanduser() / "tokenizer.json").exists():
            raise UserError(
                f"found a tokenizer in {self.output_dir}: name another --output_dir, or add --overwrite_output_dir"
            )


def main() -> None:
    options, data, hub = parse((TokenizerArguments, DataArguments, HubArguments), description=__doc__)
    if options.push_to_hub:
        require_hub_for_pushing()
    others = {name: load_tokenizer(name, needs=(), **hub.hub_options()) for name in options.compare}
    if options.model == "unigram" and options.min_frequency != MIN_FREQUENCY:
        print("warning: --min_frequency has no effect: unigram prunes by likelihood")
    corpus = joined(load_corpora(data, hub).values())
    tokenizer = train_tokenizer(
        lambda: training_documents(corpus, options),
        kind=options.model,
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        lowercase=options.lowercase,
        max_characters=options.max_characters,
        meter=corpus.train.meter,
    )
    text, title = report_documents(corpus, options)
    with Progress("counting tokens in a sample"):
        known = fertility(tokenizer, spread_sample(text()))
    require_few_unknown(known.unknown_share, tokenizer, "just trained", f"the tokens in a sample of the {title}")
    try:
        save_tokenizer(tokenizer, Path(options.output_dir))
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {options.output_dir}: {error.strerror}") from error
    print(f"{len(tokenizer):,} tokens in {options.output_dir}: {known} in a sample of the {title}")
    if corpus.validation or options.held_out:
        tokenizers = {options.output_dir: tokenizer, **others}
        with Progress(f"counting the tokens of the {title}"):
            table = fertility_table(tokenizers, text, title)
        Console(highlight=False).print(table)
    if options.push_to_hub:
        try:
            tokenizer.push_to_hub(options.push_to_hub, token=hub.token)
        except Exception as error:  # the hub's errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot push to {options.push_to_hub}: {reason}: the tokenizer is in {options.output_dir}"
            ) from error


def training_documents(corpus: Corpus, options: TokenizerArguments) -> Iterator[str]:
    """The documents to train on: a sample of those that are not held out."""
    seen = corpus.train.texts()
    if corpus.validation is None and options.held_out:
        seen = sample(seen, options.held_out, options.seed + 1, rest=True)
    return seen if options.sample_share == 1 else sample(seen, options.sample_share, options.seed)


def report_documents(corpus: Corpus, options: TokenizerArguments) -> tuple[Callable[[], Iterator[str]], str]:
    """(function that iterates over the documents of the report, what they are called): validation or held-out text, or,
    where nothing was held out, the training text."""
    if corpus.validation:
        return corpus.validation.texts, "validation text"
    if options.held_out:
        return lambda: sample(corpus.train.texts(), options.held_out, options.seed + 1), "held-out text"
    return lambda: training_documents(corpus, options), "training text"


if __name__ == "__main__":
    run_script(main)
