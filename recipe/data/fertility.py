"""Fertility: a tokenizer's tokens per word, bytes per token and share of unknown tokens on a text; too many unknown
tokens are an error."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from recipe.data.tokenizer import pieces, plain_backend
from recipe.system.errors import UserError

MAX_CHARACTERS = 5_000_000  # of held-out text: enough for shares that are exact to a thousandth
BATCH_PIECES = 256
MAX_UNKNOWN = 0.05  # share of a text's tokens; below 0.01 for English with the vocabulary of another English corpus
SAMPLE_CHARACTERS = 1_000_000  # half a second of tokenising
SAMPLE_READ = 30_000_000  # characters that the sample is spread over: half a second of reading
SAMPLE_DOCUMENT = 10_000  # most characters of one document in the sample
MAX_LETTERS_PER_WORD = 15  # with a higher average, white space doesn't separate words: Chinese, Thai, DNA


@dataclass(frozen=True)
class Fertility:
    """Counts on a text: words (separated by white space), their letters, tokens without special tokens, unknown tokens,
    UTF-8 bytes."""

    words: int
    letters: int
    tokens: int
    unknown: int
    bytes: int

    @property
    def unknown_share(self) -> float:
        """The share of unknown tokens, between 0 and 1."""
        return self.unknown / max(1, self.tokens)

    def __str__(self) -> str:
        """Tokens per word, or per letter where white space doesn't separate words, and the share of unknown tokens."""
        unit, count = (
            ("word", self.words) if self.letters <= MAX_LETTERS_PER_WORD * self.words else ("letter", self.letters)
        )
        return f"{self.tokens / max(1, count):.2f} tokens per {unit}, {self.unknown_share:.2%} unknown"


def fertility(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Fertility:
    """The counts of `tokenizer` on the first MAX_CHARACTERS characters of `texts`."""
    backend, unknown_id = plain_backend(tokenizer), unknown_id_of(tokenizer)
    words = letters = tokens = unknown = size = 0
    for batch in _batches(_bounded(texts)):
        for text in batch:
            found = text.split()
            words, letters = words + len(found), letters + sum(map(len, found))
        size += sum(len(text.encode()) for text in batch)
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            tokens += len(encoding.ids)
            unknown += 0 if unknown_id is None else encoding.ids.count(unknown_id)
    return Fertility(words, letters, tokens, unknown, size)


def unknown_id_of(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id that stands for unknown text; None where no text is unknown, as with a byte-level BPE."""
    model = tokenizer.backend_tokenizer.model
    if isinstance(model, models.Unigram):
        return tokenizer.unk_token_id
    return None if model.unk_token is None else tokenizer.convert_tokens_to_ids(model.unk_token)


def spread_sample(texts: Iterable[str]) -> list[str]:
    """Up to SAMPLE_CHARACTERS characters of the texts, evenly spread over their first SAMPLE_READ characters."""
    kept: list[str] = []
    every, read, size = 1, 0, 0
    for number, text in enumerate(texts):
        if read > SAMPLE_READ:
            break
        read += len(text)
        if number % every:
            continue
        kept.append(_middle(text))
        size += len(kept[-1])
        while size > SAMPLE_CHARACTERS and len(kept) > 1:
            kept, every = kept[::2], 2 * every
            size = sum(map(len, kept))
    return kept


def _middle(text: str) -> str:
    start = max(0, len(text) - SAMPLE_DOCUMENT) // 2
    return text[start : start + SAMPLE_DOCUMENT]


def require_few_unknown(share: float, tokenizer: PreTrainedTokenizerFast, name: str, of: str) -> None:
    """Raises UserError where the `share` of unknown tokens is above MAX_UNKNOWN; `name` and `of` name the tokenizer and
    the tokens in its message."""
    if share > MAX_UNKNOWN:
        raise UserError(
            f"{share:.1%} of {of} are {tokenizer.unk_token}, unknown to the tokenizer {name}: expected at most "
            f"{MAX_UNKNOWN:.0%}; use TOKENIZER=train, which learns the text's letters, with a larger VOCAB_SIZE if it "
            "was trained so, or a byte-level BPE (train_tokenizer.py --model bpe), which has no unknown tokens"
        )


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


def fertility_table(
    tokenizers: dict[str, PreTrainedTokenizerFast], texts: Callable[[], Iterable[str]], title: str
) -> Table:
    """A table of the counts on `texts()`, with one row per tokenizer {name: tokenizer}."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("tokenizer", overflow="fold")  # two paths may differ only at their ends
    for name in ("vocabulary", "tokens per word", "bytes per token", "unknown"):
        table.add_column(name, justify="right")
    for name, tokenizer in tokenizers.items():
        found = fertility(tokenizer, texts())
        cells = (
            f"{len(tokenizer):,}",
            f"{found.tokens / max(1, found.words):.3f}",
            f"{found.bytes / max(1, found.tokens):.2f}",
            f"{found.unknown_share:.3%}",
        )
        table.add_row(Text(name), *cells)
    return table
