"""Paths on the command line: those that no file system takes are refused before anything opens them."""

import re
from pathlib import Path

from recipe.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # this checkout, with configs/, metrics/ and the scripts
LONGEST_NAME = 255  # bytes, of a file's name on every common file system
FLAGS = re.compile(r"(_dir|_file|_path|_name|^runs|^folder|^glue_data|^compare|^deepspeed)$")


def path_exists(name: str) -> bool:
    """Whether something is at the path `name`; no for what can be no path."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, ~ of no user, a zero byte
        return False


def require_paths(values: dict[str, object]) -> None:
    """Raises UserError for the first path in `values`, {flag's name: value or list of them}, that cannot exist."""
    for name, given in values.items():
        for value in given if isinstance(given, list) else (given,):
            if not isinstance(value, str) or not FLAGS.search(name) or "://" in value or value.startswith(("{", "[")):
                continue
            longest = max(len(part.encode(errors="surrogatepass")) for part in value.split("/"))
            if longest > LONGEST_NAME:
                raise UserError(f"found --{name} {value[:40]}..., a name of {longest} bytes: expected at most 255")
            if "\0" in value:
                raise UserError(f"found --{name} {value[:40]!r}, expected a path without zero bytes")
            try:
                Path(value).expanduser()
            except RuntimeError as error:
                raise UserError(f"found --{name} {value}: there is no user {value.split('/')[0][1:]}") from error
