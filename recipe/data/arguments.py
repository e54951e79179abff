"""Arguments that name a corpus and say how it is read, tokenised and cut into blocks."""

import os
from dataclasses import dataclass
from pathlib import Path

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.data.compression import COMPRESSIONS
from recipe.data.encodings import check_encoding
from recipe.data.mixtures import weights_of
from recipe.data.tables import QUOTING, check_delimiter
from recipe.system.errors import UserError


@dataclass
class DataArguments:
    """Which text to use, and how it is read and cut into blocks."""

    dataset_name: str | None = option(
        None,
        "Corpus: hub id, file, folder, glob, .tar.gz or URL (s3://, gs://, hf://); docstrings is the built-in one. "
        "Several with weights are a mixture: 'wiki/=2 books/=1'.",
    )
    dataset_config_name: str | None = option(None, "Config of a dataset on the hub.")
    train_file: str | None = option(
        None,
        "Training text instead: .txt .jsonl .json .csv .tsv .parquet .arrow .py .md .html ...; text also "
        f"{' or '.join(COMPRESSIONS)}.",
    )
    validation_file: str | None = option(None, "Validation text; by default documents are split off the training text.")
    mixture_temperature: float | None = option(
        None,
        "Multiply each weight of a mixture by the source's number of tokens to the power of 1 / this: with equal "
        "weights, 1 is in proportion to size, and large values are nearly equal shares.",
    )
    text_column: str = option("text", "Column or JSON field that holds the text; a.b is field b of field a.")
    line_by_line: bool = option(
        False,
        "Treat each line of a text file as a document; by default each paragraph of a .txt is one, and each whole .py, "
        ".md, .html ... file.",
    )
    text_encoding: str | None = option(
        None,
        "Encoding of text files, e.g. windows-1252 or gb18030; by default UTF-8, or what their byte-order mark says.",
    )
    csv_delimiter: str | None = option(None, "Field delimiter; by default a comma in .csv and a tab in .tsv.")
    csv_quoting: str = option(
        "auto",
        "minimal: fields may be quoted; none: quotes are plain text; auto: minimal for .csv, where a field that looks "
        "like several rows is refused, and none for .tsv.",
    )
    join_rows: bool = option(False, "Treat rows of token ids as one stream, in which only end tokens end a document.")
    validation_split_percentage: float = option(5.0, "Percentage of documents that are split off for validation.")
    prepared_dir: str = option("data", "Folder of prepared tokens and of tokenizers that are trained here.")
    overwrite_cache: bool = option(False, "Tokenise again, even if prepared tokens exist.")
    preprocessing_num_workers: int | None = option(None, "Tokenisation threads; by default one per core.")
    max_seq_length: int = option(512, "Tokens per block, including its begin and end token.")
    pad_to_max_length: bool = option(False, "No effect: blocks always have the full length.")
    streaming: bool = option(False, "No effect: text is streamed in any case.")
    max_train_samples: int | None = option(
        None, "Train on only this many blocks of each source, spread over it; by default all."
    )
    max_eval_samples: int | None = option(
        None, "Evaluate on only this many blocks of each source, spread over its validation text; by default all."
    )

    @property
    def weights(self) -> dict[str, float]:
        """{dataset: weight} of the mixture that --dataset_name is; {} if it is one dataset."""
        return weights_of(self.dataset_name)

    def ignored(self) -> list[str]:
        """A sentence for each given flag that has no effect."""
        said = []
        if self.streaming:
            said.append("--streaming has no effect: preparation streams in any case")
        if self.pad_to_max_length:
            said.append("--pad_to_max_length has no effect: blocks are packed to the full length")
        if self.mixture_temperature and not self.weights:
            said.append("--mixture_temperature has no effect: --dataset_name is one dataset")
        local = self.train_file or Path(self.dataset_name or "").expanduser().exists()
        if self.dataset_config_name and (local or self.dataset_name == "docstrings"):
            said.append("--dataset_config_name has no effect: it names a part of a hub dataset")
        return said

    def __post_init__(self):
        require_numbers(vars(self))
        if self.weights and self.validation_file:
            raise UserError(
                "found --validation_file beside a mixture, whose sources have validation text of their own: leave it "
                "out"
            )
        if self.text_encoding is not None:
            check_encoding(self.text_encoding)
        if self.csv_delimiter is not None:
            check_delimiter(self.csv_delimiter)
        if self.csv_quoting not in QUOTING:
            raise UserError(f"found --csv_quoting {self.csv_quoting}, expected one of {', '.join(QUOTING)}")
        if self.preprocessing_num_workers:
            os.environ["RAYON_NUM_THREADS"] = str(self.preprocessing_num_workers)
