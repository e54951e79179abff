#!/usr/bin/env python3
"""Shows what models predict for the blanks of a sentence, with probabilities; without a sentence, it prompts for some.

A run folder stands for all its checkpoints, in order of their steps, which shows what the model learned, and when.
A blank is ___, <mask> or [MASK]. Of several blanks each is predicted with the others still masked.

    python fill_mask.py runs/my_run/checkpoint-900 "Returns the ___ of the array."
    python fill_mask.py runs/my_run "Returns the ___ of the ___." \\
        "The capital of France is ___."
    python fill_mask.py runs/my_run/checkpoint-500 runs/other roberta-base
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import contextlib
import sys
from dataclasses import dataclass

from rich.console import Console

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.data.surrogates import without_surrogates
from recipe.evaluate.fill_in import BLANKS, fill_all, models_of, table_of
from recipe.model.arguments import HubArguments
from recipe.system.errors import UserError
from recipe.system.paths import path_exists
from recipe.system.runtime import quiet_libraries

WIDE = 240  # columns, where the output is no terminal


@dataclass
class FillArguments:
    """How many guesses to show."""

    top_k: int = option(5, "Guesses per blank.")


def main() -> None:
    options, hub, (words,) = parse(
        (FillArguments, HubArguments), description=__doc__, positional=("models and sentences ...",)
    )
    quiet_libraries()
    words = [readable(word) for word in words]
    texts = [word for word in words if is_text(word)]
    models = models_of([word for word in words if word not in texts], warn=lambda line: print(line, file=sys.stderr))
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)

    def answer(text: str) -> None:
        console.print(table_of(list(fill_all(models, [text], options.top_k, **hub.hub_options()))))

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


if __name__ == "__main__":
    run_script(main)
