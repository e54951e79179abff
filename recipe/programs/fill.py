"""Sentences with blanks, filled by one or several models."""

import contextlib
import sys

from rich.console import Console

from recipe.data.surrogates import without_surrogates
from recipe.evaluate.fill_in import BLANKS, fill_all, models_of, table_of
from recipe.model.arguments import HubArguments
from recipe.system.errors import UserError
from recipe.system.paths import path_exists
from recipe.system.runtime import quiet_libraries

WIDE = 240  # columns, where the output is no terminal


def run(words: list[str], guesses: int, hub: HubArguments) -> None:
    """Prints the `guesses` best words for each blank of the sentences among `words`, whose other words name models;
    without a sentence, asks for them. Raises UserError for words that are neither."""
    quiet_libraries()
    words = [readable(word) for word in words]
    texts = [word for word in words if is_text(word)]
    models = models_of([word for word in words if word not in texts], warn=lambda line: print(line, file=sys.stderr))
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)

    def answer(text: str) -> None:
        console.print(table_of(list(fill_all(models, [text], guesses, **hub.hub_options()))))

    for text in texts:
        answer(text)
    if not texts:
        console.print(f"{len(models)} model{'s' * (len(models) > 1)}")
        console.print(f"A sentence with {BLANKS[0]} in it, or an empty line to end:")
        while text := ask():
            try:
                answer(readable(text))
            except UserError as error:  # another sentence may follow
                console.print(f"{error}", markup=False)


def is_text(word: str) -> bool:
    """Whether a word of the command line is a sentence rather than the name of a model."""
    return not path_exists(word) and (" " in word or any(blank in word for blank in BLANKS))


def readable(word: str) -> str:
    """`word` with bytes that are not UTF-8 replaced, and a warning: no tokenizer and no terminal accepts them."""
    text, replaced = without_surrogates(word)
    if replaced:
        print(f"warning: {replaced} bytes of {text!r} are not UTF-8: replaced by U+FFFD", file=sys.stderr)
    return text


def ask() -> str:
    """The next line of input, empty at its end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - arrow keys and history
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
