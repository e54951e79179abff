"""What a tokenizer costs: tokens a word, bytes a token, unknown tokens, on held-out text, side by side with others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from recipe.tokenizer import pieces, plain_backend

MAX_CHARACTERS = 5_000_000  # of held-out text: shares are then good to a thousandth
BATCH_PIECES = 256


@dataclass(frozen=True)
class Fertility:
    """Counts on a text: words (between white space), tokens without special ones, unknown tokens, UTF-8 bytes."""

    words: int
    tokens: int
    unknown: int
    bytes: int


def fertility(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Fertility:
    """The counts of `tokenizer` on `texts`, of which MAX_CHARACTERS are read."""
    backend, unknown_id = plain_backend(tokenizer), tokenizer.unk_token_id
    words = tokens = unknown = size = 0
    for batch in _batches(_bounded(texts)):
        words += sum(len(text.split()) for text in batch)
        size += sum(len(text.encode()) for text in batch)
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            tokens += len(encoding.ids)
            unknown += encoding.ids.count(unknown_id)
    return Fertility(words, tokens, unknown, size)


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    left = MAX_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        for piece in pieces(text):
            batch.append(piece)
            if len(batch) == BATCH_PIECES:
                yield batch
                batch = []
    if batch:
        yield batch


def table_of(tokenizers: dict[str, PreTrainedTokenizerFast], texts: Callable[[], Iterable[str]], title: str) -> Table:
    """A row for each tokenizer, by its name, on the text that `texts()` begins."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("tokenizer")
    for name in ("vocabulary", "tokens a word", "bytes a token", "unknown"):
        table.add_column(name, justify="right")
    for name, tokenizer in tokenizers.items():
        found = fertility(tokenizer, texts())
        cells = (
            f"{len(tokenizer):,}",
            f"{found.tokens / max(1, found.words):.3f}",
            f"{found.bytes / max(1, found.tokens):.2f}",
            f"{found.unknown / max(1, found.tokens):.3%}",
        )
        table.add_row(Text(name), *cells)
    return table
