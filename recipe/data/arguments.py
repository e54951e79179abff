"""Arguments that name a corpus and say how it is read and cut."""

import os
from dataclasses import dataclass
from pathlib import Path

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.data.compression import COMPRESSIONS
from recipe.data.encodings import check_encoding
from recipe.data.tables import QUOTING, check_delimiter
from recipe.system.errors import UserError


@dataclass
class DataArguments:
    """Which text, and how it is cut."""

    dataset_name: str | None = option(
        None,
        "Hub id, file, folder, glob, .tar.gz or s3://..., gs://..., hf://...; `docstrings` is the built-in corpus.",
    )
    dataset_config_name: str | None = option(None, "Config of a hub dataset.")
    train_file: str | None = option(
        None,
        "Training text: .txt .jsonl .json .csv .tsv .parquet .arrow .py .md .html ...; text also "
        f"{' or '.join(COMPRESSIONS)}.",
    )
    validation_file: str | None = option(None, "Validation text; without one, documents are split off.")
    text_column: str = option("text", "Column or JSON field that holds the text; a.b is the field b inside of a.")
    line_by_line: bool = option(
        False,
        "Each line of a text file is a document (by default: each blank-line paragraph of a .txt, the whole of a .py, "
        ".md, .html ...).",
    )
    text_encoding: str | None = option(
        None, "Encoding of text files that are not UTF-8 and have no byte-order mark: windows-1252, gb18030 ..."
    )
    csv_delimiter: str | None = option(None, "Separates the cells of .csv and .tsv; by default a comma and a tab.")
    csv_quoting: str = option(
        "auto",
        "minimal: quotes wrap cells; none: they are plain text; auto: minimal for .csv, where a cell that looks like "
        "several rows is refused, and none for .tsv.",
    )
    join_rows: bool = option(False, "Rows of token ids are pieces of one stream: only end tokens end a document.")
    validation_split_percentage: float = option(5.0, "Share of documents that are split off for validation.")
    prepared_dir: str = option("data", "Where prepared tokens and trained tokenizers are kept.")
    overwrite_cache: bool = option(False, "Prepare the tokens again.")
    preprocessing_num_workers: int | None = option(None, "Threads for tokenisation; by default every core.")
    max_seq_length: int = option(512, "Tokens a block, its begin and end token included.")
    pad_to_max_length: bool = option(False, "Accepted for scripts that set it: blocks always have the full length.")
    streaming: bool = option(False, "Accepted for scripts that set it: preparation streams in any case.")
    max_train_samples: int | None = option(None, "Use only this many training blocks, spread over the corpus.")
    max_eval_samples: int | None = option(None, "Use only this many validation blocks, spread over the split.")

    def ignored(self) -> list[str]:
        """A sentence for each flag that was given and changes nothing."""
        said = []
        if self.streaming:
            said.append("--streaming changes nothing: preparation streams in any case")
        if self.pad_to_max_length:
            said.append("--pad_to_max_length changes nothing: blocks are packed to the full length")
        local = self.train_file or Path(self.dataset_name or "").expanduser().exists()
        if self.dataset_config_name and (local or self.dataset_name == "docstrings"):
            said.append("--dataset_config_name changes nothing: it names a part of a hub dataset")
        return said

    def __post_init__(self):
        require_numbers(vars(self))
        if self.text_encoding is not None:
            check_encoding(self.text_encoding)
        if self.csv_delimiter is not None:
            check_delimiter(self.csv_delimiter)
        if self.csv_quoting not in QUOTING:
            raise UserError(f"found --csv_quoting {self.csv_quoting}, expected one of {', '.join(QUOTING)}")
        if self.preprocessing_num_workers:
            os.environ["RAYON_NUM_THREADS"] = str(self.preprocessing_num_workers)
