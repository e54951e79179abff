"""What a tokenizer makes of a text: tokens per word, bytes per token and the share of unknown tokens, which decides
whether it can be used."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from recipe.data.tokenizer import pieces, plain_backend
from recipe.system.errors import UserError

MAX_CHARACTERS = 5_000_000  # of held-out text: shares are then good to a thousandth
BATCH_PIECES = 256
MAX_UNKNOWN = 0.05  # of a text's tokens: English text in the vocabulary of another English corpus stays below 0.01
SAMPLE_CHARACTERS = 1_000_000  # half a second of tokenising
SAMPLE_READ = 30_000_000  # characters that the sample is spread over: half a second of reading
SAMPLE_DOCUMENT = 10_000  # characters that a document adds to the sample at most
LETTERS_OF_A_WORD = 15  # where words have more on average, white space doesn't part words: Chinese, Thai, DNA


@dataclass(frozen=True)
class Fertility:
    """Counts on a text: words (between white space), their letters, tokens without special ones, unknown tokens, UTF-8
    bytes."""

    words: int
    letters: int
    tokens: int
    unknown: int
    bytes: int

    @property
    def unknown_share(self) -> float:
        """The share of unknown tokens, of 1."""
        return self.unknown / max(1, self.tokens)

    def __str__(self) -> str:
        """Tokens per word, or per letter where words are not parted by white space; and the share that is unknown."""
        unit, count = (
            ("word", self.words) if self.letters <= LETTERS_OF_A_WORD * self.words else ("letter", self.letters)
        )
        return f"{self.tokens / max(1, count):.2f} tokens per {unit}, {self.unknown_share:.2%} unknown"


def fertility(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Fertility:
    """The counts of `tokenizer` on `texts`, of which MAX_CHARACTERS are read."""
    backend, unknown_id = plain_backend(tokenizer), unknown_id_of(tokenizer)
    words = letters = tokens = unknown = size = 0
    for batch in _batches(_bounded(texts)):
        for text in batch:
            found = text.split()
            words, letters = words + len(found), letters + sum(map(len, found))
        size += sum(len(text.encode()) for text in batch)
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            tokens += len(encoding.ids)
            unknown += encoding.ids.count(unknown_id)
    return Fertility(words, letters, tokens, unknown, size)


def unknown_id_of(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id of text that the vocabulary has nothing for; None where there is no such text, as to a byte-level BPE."""
    model = tokenizer.backend_tokenizer.model
    if isinstance(model, models.Unigram):
        return tokenizer.unk_token_id
    return None if model.unk_token is None else tokenizer.convert_tokens_to_ids(model.unk_token)


def spread_sample(texts: Iterable[str]) -> list[str]:
    """Up to SAMPLE_CHARACTERS of the texts, evenly spread over their first SAMPLE_READ characters."""
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
    """Raises UserError where more than MAX_UNKNOWN of the tokens `of` a text are unknown to `tokenizer`, whose `name`
    is for the message."""
    if share > MAX_UNKNOWN:
        raise UserError(
            f"{share:.1%} of {of} are {tokenizer.unk_token}, unknown to the tokenizer {name}: expected at most "
            f"{MAX_UNKNOWN:.0%}; use TOKENIZER=train, which learns the text's letters, with a larger VOCAB_SIZE if it "
            "is that, or a byte-level BPE (train_tokenizer.py --model bpe), to which nothing is unknown"
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
    """A row for each tokenizer, by its name, on the text that `texts()` begins."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("tokenizer", overflow="fold")  # the ends of two paths tell them apart
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
