"""A .json, .yaml or .yml file in place of a command line: its keys become flags, so that both behave the same."""

import argparse
import json
from pathlib import Path

import yaml

from recipe.system.errors import UserError

SUFFIXES = {".json", ".yaml", ".yml"}


def argv_of(file: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The command line equivalent to `file`. A null or [] in it is set as a default of `parser`.

    Raises UserError where the file cannot be read or doesn't hold one object.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}: expected a file of flags") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {file}: {reason}: expected a JSON object or YAML mapping of flags") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, expected an object, {{flag: value}}")
    actions = {flag: action for action in parser._actions for flag in action.option_strings}
    argv: list[str] = []
    for name, value in content.items():
        flag, action = f"--{name}", actions.get(f"--{name}")
        if action and (value is None or value == []):
            parser.set_defaults(**{action.dest: value})
        elif action and action.nargs == "+" and isinstance(value, list):
            argv += [flag, *map(_word, value)]
        else:
            argv.append(f"{flag}={_word(value)}")
    return argv


def _word(value: object) -> str:
    if value is False:
        return "no"  # "off" for every flag; YAML reads `eval_strategy: no` as a boolean
    return value if isinstance(value, str) else json.dumps(value)
