"""Files that this project writes and reads back: whole on disk before they take their name, and read with care."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}


class DamagedFile(ValueError):
    """A file of ours that doesn't hold what it should. The message says why, as the rest of a sentence that begins with
    the file's name."""


# ---- reading


def read_object(path: Path) -> dict:
    """The JSON object in a file. Raises FileNotFoundError where there is none, DamagedFile for anything else in its
    place or in it."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DamagedFile("is not UTF-8 text") from error
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise DamagedFile("is not JSON (nested too deeply)") from error
    except ValueError as error:
        raise DamagedFile(f"is not JSON ({error})" if text.strip() else "is empty") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"holds {_KINDS.get(type(content), 'null')}, expected an object")
    return content


def read_json(path: Path) -> dict | None:
    """The JSON object in a file, None where there is no such file or no whole object in it."""
    try:
        return read_object(path)
    except (OSError, DamagedFile):
        return None


def sha256_of(file: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def add_checksum(content: dict) -> dict:
    """`content` with its own sha256 under the key "sha256", for `verify_checksum`."""
    return {**content, "sha256": _digest(content)}


def verify_checksum(content: dict) -> dict:
    """What `add_checksum` was given. Raises DamagedFile if it has changed since."""
    inner = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256") != _digest(inner):
        raise DamagedFile("has other content than its own sha256 says")
    return inner


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- writing


def flush(path: Path) -> None:
    """Has the system write a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Gives the name of a file to write, which becomes `path` on leaving: whole and on disk, or not at all where it
    could not be written. Others may write the same file at the same time."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` so that `path` is whole at any moment, also after a power cut."""
    with atomic_output(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: dict) -> None:
    """Writes `content` atomically and creates its folder if need be. Raises ValueError for NaN and infinity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def publish_folder(staged: Path, final: Path) -> None:
    """Gives the finished folder `staged` its name `final`, once everything in it is on disk."""
    for path in staged.rglob("*"):
        flush(path)
    flush(staged)
    staged.replace(final)
    flush(final.parent)


def remove(path: Path) -> None:
    """Deletes whatever bears this name, if anything: a file, a link (not what it leads to), or a folder."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif os.path.lexists(path):
        shutil.rmtree(path)
