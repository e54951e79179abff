"""Tokens added to the tokenizer of a checkpoint that is trained further: the words of a domain, which it would cut into
pieces."""

from pathlib import Path

from tokenizers import AddedToken, decoders
from transformers import PreTrainedTokenizerFast

from recipe.system.errors import UserError

MOST = 100_000  # tokens; matching them takes memory and time


def add_tokens(tokenizer: PreTrainedTokenizerFast, file: str) -> tuple[int, int]:
    """Adds the tokens of a UTF-8 text file, one a line, to `tokenizer`: each is matched where it is a whole word, in
    byte-level BPE with the space before it. Returns (how many were added, how many it knew already).

    Raises UserError for a file that can't be read, without a token, or with more than MOST.
    """
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the tokens of --add_tokens {file}: {error.strerror}: name a text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"found --add_tokens {file}, which isn't UTF-8: save it as UTF-8, one token a line") from error
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not wanted:
        raise UserError(f"found no token in --add_tokens {file}: expected one a line")
    if len(wanted) > MOST:
        raise UserError(f"found {len(wanted):,} tokens in --add_tokens {file}, expected at most {MOST:,}")
    known, space = tokenizer.get_vocab(), isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)
    new = [token for token in wanted if token not in known and not (space and f"Ġ{token}" in known)]
    tokenizer.add_tokens(
        [AddedToken(token, single_word=True, lstrip=space) for token in new]  # pyright: ignore[reportArgumentType]
    )
    return len(new), len(wanted) - len(new)
