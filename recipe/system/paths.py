"""The checkout's root, and validation of paths given on the command line."""

import re
from pathlib import Path

from recipe.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # this checkout, with configs/, metrics/ and the scripts
MAX_NAME_BYTES = 255  # of a file's name, on every common file system
PATH_FLAGS = re.compile(r"(_dir|_file|_path|_name|^runs|^folder|^glue_data|^compare|^deepspeed)$")


def path_exists(name: str) -> bool:
    """Whether a file or folder exists at `name`; False for an invalid path."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, ~ of an unknown user, a null byte
        return False


def require_paths(values: dict[str, object]) -> None:
    """Raises UserError for the first invalid path in `values`, {flag: value or list of values}."""
    for name, given in values.items():
        for value in given if isinstance(given, list) else (given,):
            if (
                not isinstance(value, str)
                or not PATH_FLAGS.search(name)
                or "://" in value
                or value.startswith(("{", "["))
            ):
                continue
            longest = max(len(part.encode(errors="surrogatepass")) for part in value.split("/"))
            if longest > MAX_NAME_BYTES:
                raise UserError(f"found --{name} {value[:40]}..., a name of {longest} bytes: expected at most 255")
            if "\0" in value:
                raise UserError(f"found --{name} {value[:40]!r}, expected a path without null bytes")
            try:
                Path(value).expanduser()
            except RuntimeError as error:
                raise UserError(f"found --{name} {value}: there is no user {value.split('/')[0][1:]}") from error
