#!/usr/bin/env python3
"""Trains a tokenizer on a corpus: byte-level BPE with RoBERTa's special tokens, or WordPiece with BERT's.

Text streams through; memory is bounded by the corpus's distinct words. Of a corpus longer than --max_characters a
seeded sample of documents is used.

    python train_tokenizer.py --dataset_name my_corpus/ --output_dir my_tokenizer --vocab_size 16384
    TOKENIZER=my_tokenizer DATASET=my_corpus bash pretrain.sh
"""

from dataclasses import dataclass
from pathlib import Path

from recipe.arguments import DataArguments, HubArguments, option, parse
from recipe.errors import UserError, run_script
from recipe.hub import require_hub
from recipe.prepare import corpus_of
from recipe.tokenizer import KINDS, MAX_TRAINING_CHARACTERS, sample, save_tokenizer, train_tokenizer


@dataclass
class TokenizerArguments:
    """What kind of tokenizer, and where it goes."""

    output_dir: str = option("", "Folder for the tokenizer.")
    model: str = option("bpe", f"One of {', '.join(KINDS)}.")
    vocab_size: int = option(8192, "Tokens, special ones included.")
    min_frequency: int = option(2, "A merge must occur this often.")
    lowercase: bool = option(False, "Lower-case the text.")
    max_characters: int = option(MAX_TRAINING_CHARACTERS, "Learn from at most this much text.")
    sample_share: float = option(1.0, "Share of the documents to learn from, drawn by --seed.")
    seed: int = option(42, "Seed of the sample.")
    push_to_hub: str | None = option(None, "Hub repository to push the tokenizer to.")


def main() -> None:
    options, data, hub = parse((TokenizerArguments, DataArguments, HubArguments), description=__doc__)
    if not options.output_dir:
        raise UserError("found no --output_dir: name a folder for the tokenizer")
    if options.push_to_hub:
        require_hub(f"repository {options.push_to_hub}", "no --push_to_hub, and push the folder later")
    corpus = corpus_of(data, hub)
    tokenizer = train_tokenizer(
        lambda: sample(corpus.train.documents(), options.sample_share, options.seed),
        kind=options.model,
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        lowercase=options.lowercase,
        max_characters=options.max_characters,
    )
    try:
        save_tokenizer(tokenizer, Path(options.output_dir))
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {options.output_dir}: {error.strerror}") from error
    print(f"{len(tokenizer):,} tokens in {options.output_dir}")
    if options.push_to_hub:
        try:
            tokenizer.push_to_hub(options.push_to_hub, token=hub.token)
        except Exception as error:  # the hub's errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot push to {options.push_to_hub}: {reason}: the tokenizer is in {options.output_dir}"
            ) from error


if __name__ == "__main__":
    run_script(main)
