"""Command-line arguments: dataclasses whose help is the documentation, and the parser that reads them."""

import difflib
import os
import sys
from dataclasses import field
from functools import cache
from pathlib import Path

from transformers import HfArgumentParser

from recipe.cli.argument_files import SUFFIXES, argv_of
from recipe.cli.help_page import help_page, program_of
from recipe.cli.numbers import require_numbers
from recipe.cli.old_flags import translate
from recipe.system.errors import UserError
from recipe.system.paths import require_paths
from recipe.system.progress import hide_progress
from recipe.system.secrets import redact_argv, remember_secrets

TYPO_SIMILARITY = 0.85  # of an unknown flag to a known one that is suggested; below it, they only sound alike


def option(default, help_text: str, **more):
    """A dataclass field with a default and its documentation."""
    return field(default=default, metadata={"help": help_text, **more})


class Parser(HfArgumentParser):
    """HfArgumentParser with one-line errors and a help page under headings.

    Numbers and paths are checked as they are read, and unknown flags are refused before anything is built, unless
    `passes_unknown`. A dataclass may have a class method `flag_help`, {field: its help on this program's page}.
    """

    passes_unknown = False

    def __init__(self, dataclasses: tuple[type, ...], **more):
        self.kinds = dataclasses
        super().__init__(dataclasses, prog=program_of(sys.argv[0]), allow_abbrev=False, **more)

    def error(self, message):
        raise UserError(f"{message}: see --help")

    def format_help(self):
        return help_page(self, self.sentences)

    @property
    def sentences(self) -> dict[str, str]:
        """What `flag_help` of its dataclasses says."""
        own = (kind.flag_help() for kind in self.kinds if hasattr(kind, "flag_help"))
        return {flag: text for of_one in own for flag, text in of_one.items()}

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown and not self.passes_unknown:
            flag = unknown[0].split("=")[0]
            close = difflib.get_close_matches(flag, self.flags, n=1, cutoff=TYPO_SIMILARITY)
            hint = f": did you mean {close[0]}?" if close else ": see --help"
            raise UserError(f"found the unknown flag {flag}{hint}")
        require_numbers(vars(namespace))
        require_paths(vars(namespace))
        return namespace, unknown

    @property
    def flags(self) -> set[str]:
        """All flags, with their dashes."""
        return {flag for action in self._actions for flag in action.option_strings}


def parse(
    dataclasses: tuple[type, ...],
    argv: list[str] | None = None,
    description: str | None = "",
    positional: tuple[str, ...] = (),
) -> tuple:
    """Reads the command line, or the one .json, .yaml or .yml file that it names, into instances of `dataclasses`.

    With names of `positional` arguments, a tuple of their values comes last; a name that ends in "..." takes one or
    more values, as a list. Renamed flags of older versions are accepted, with a warning. `description` is the program's
    docstring; its indented paragraphs are the examples of the help page. Raises UserError for unknown flags and wrong
    values, with the right flag's name where that is known.
    """
    argv = sys.argv[1:] if argv is None else argv
    redact_argv()
    remember_secrets(argv)
    parser = Parser(dataclasses, description=description)
    for name in positional:
        parser.add_argument(name, nargs="+" if name.endswith("...") else None)
    if len(argv) == 1 and not positional and Path(argv[0]).suffix in SUFFIXES:
        argv = argv_of(Path(argv[0]), parser)
        remember_secrets(argv)
    argv = with_current_flags(argv, parser.flags)
    try:
        parsed = parser.parse_args_into_dataclasses(argv)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, OSError, ImportError, OverflowError, RuntimeError) as error:
        raise UserError(str(error).strip().replace("\n", " ")) from error
    for part in parsed:
        if hasattr(part, "disable_tqdm"):
            hide_progress(bool(part.disable_tqdm))
    if positional:
        *parsed, named = parsed
        parsed.append(tuple(getattr(named, name) for name in positional))
    return tuple(parsed)


def with_current_flags(argv: list[str], known: set[str]) -> list[str]:
    """`argv` with renamed flags under their current names; the first process warns of each, once."""
    argv, said = translate(argv, known)
    for sentence in said if os.environ.get("RANK", "0") == "0" else ():
        _warn_once(sentence)
    return argv


@cache
def _warn_once(sentence: str) -> None:
    print(f"warning: {sentence}", flush=True)
