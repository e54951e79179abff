#!/usr/bin/env python3
"""Tokenises a corpus once into a flat array on disk, which every run with the same text and tokenizer uses.

Runs do this themselves if it has not been done. A killed preparation continues; blocks of any length are cut from the
array later.

The corpus is text, or rows of token ids (`input_ids` in parquet files or in datasets of save_to_disk): a file, a folder
or a .tar.gz, local or at any fsspec URL. #sha256=HEX after its name checks a file. With --upload_to the prepared tokens
are copied to a URL, which is then the dataset of every run.

    python prepare_data.py --dataset_name my_corpus/ --tokenizer_name roberta-base
    python prepare_data.py --dataset_name docstrings --tokenizer_name train \\
        --config_name configs/roberta_tiny.json

    python prepare_data.py --dataset_name s3://bucket/rows.tar.gz \\
        --tokenizer_name roberta-base --upload_to s3://bucket
    DATASET=s3://bucket/rows-0123456789abcdef bash pretrain.sh
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from dataclasses import dataclass

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.data.arguments import DataArguments
from recipe.data.corpus import joined
from recipe.data.inputs import load_corpora, load_or_prepare_tokens, load_or_train_tokenizer, prepared_dir
from recipe.data.upload import require_writable, upload_tokens
from recipe.model.arguments import ModelArguments
from recipe.model.config import load_config, require_family
from recipe.system.runtime import quiet_libraries


@dataclass
class UploadArguments:
    """Where to copy the tokens to."""

    upload_to: str | None = option(
        None, "Also copy tokens and tokenizer to a new folder below this URL or path, e.g. s3://bucket."
    )


def main() -> None:
    model, data, upload = parse((ModelArguments, DataArguments, UploadArguments), description=__doc__)
    quiet_libraries()
    if upload.upload_to:
        require_writable(upload.upload_to)
    if model.model_type:
        require_family(model.model_type)
    family = load_config(model.config_name).model_type if model.config_name else model.model_type or "roberta"
    corpora = load_corpora(data, model).values()
    tokenizer = load_or_train_tokenizer(model, family, joined(corpora), prepared_dir(data), needs=("pad",))
    for corpus in corpora:
        prepared = load_or_prepare_tokens(data, corpus, tokenizer)
        print(f"{prepared.folder}")
        for split, about in prepared.splits.items():
            print(f"  {split:<10} {about['tokens']:>16,} tokens  {about['documents']:>12,} documents")
        if upload.upload_to:
            print(f"{upload_tokens(prepared, tokenizer, upload.upload_to)}")


if __name__ == "__main__":
    run_script(main)
