#!/usr/bin/env python3
"""Tokenises a corpus once into a flat array on disk; every run that names the same text and tokenizer uses it.

A run does this by itself where it wasn't done. Killed, it continues; any sequence length is cut from it later.

    python prepare_data.py --dataset_name my_corpus/ --tokenizer_name roberta-base
    python prepare_data.py --dataset_name docstrings --tokenizer_name train --config_name configs/roberta_tiny.json
"""

from pathlib import Path

from recipe.arguments import DataArguments, ModelArguments, parse
from recipe.errors import run_script
from recipe.model import load_config
from recipe.prepare import corpus_of, tokenizer_of, tokens_of
from recipe.quiet import quiet_libraries


def main() -> None:
    model, data = parse((ModelArguments, DataArguments), description=__doc__)
    quiet_libraries()
    family = load_config(model.config_name).model_type if model.config_name else model.model_type or "roberta"
    corpus = corpus_of(data, model)
    tokenizer = tokenizer_of(model, family, corpus, Path(data.prepared_dir).expanduser())
    prepared = tokens_of(data, corpus, tokenizer, quiet=False)
    print(f"{prepared.folder}")
    for split, about in prepared.splits.items():
        print(f"  {split:<10} {about['tokens']:>16,} tokens  {about['documents']:>12,} documents")


if __name__ == "__main__":
    run_script(main)
