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

from dataclasses import dataclass

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.model.arguments import HubArguments


@dataclass
class FillArguments:
    """How many guesses to show."""

    top_k: int = option(5, "Guesses per blank.")


def main() -> None:
    options, hub, (words,) = parse(
        (FillArguments, HubArguments), description=__doc__, positional=("models and sentences ...",)
    )
    from recipe.programs.fill import run  # after the flags are read: it imports the models

    run(words, options.top_k, hub)


if __name__ == "__main__":
    run_script(main)
