"""Atomic writes and validated reads of the files that this project keeps."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


class DamagedFile(ValueError):
    """A file written by this project whose content is invalid. The message completes a sentence that begins with the
    file's name."""


# ---- reading


def read_object(path: Path) -> dict:
    """The JSON object in a file. Raises FileNotFoundError where the file is missing, DamagedFile where it is unreadable
    or holds anything else."""
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
    """The JSON object in a file; None where the file is missing or holds anything else."""
    try:
        return read_object(path)
    except (OSError, DamagedFile):
        return None


def sha256_of(file: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def add_checksum(content: dict) -> dict:
    """`content` with its own sha256 under the key "sha256", for `verify_checksum`."""
    return {**content, "sha256": _digest(content)}


def verify_checksum(content: dict) -> dict:
    """What `add_checksum` was given. Raises DamagedFile if it has changed since."""
    inner = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256") != _digest(inner):
        raise DamagedFile("doesn't match its own sha256")
    return inner


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- writing


def flush(path: Path) -> None:
    """Forces a file's content, or a folder's entries, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on exit its content, synced to disk, replaces `path`. After an error `path`
    is unchanged. Safe with concurrent writers of the same file."""
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
    """Writes `content` atomically: `path` is never seen incomplete, even after a power failure."""
    with atomic_output(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: dict) -> None:
    """Writes `content` atomically and creates its folder if need be. Raises ValueError for NaN and infinity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def publish_folder(staged: Path, final: Path) -> None:
    """Renames the finished folder `staged` to `final` once all of its files are on disk."""
    for path in staged.rglob("*"):
        flush(path)
    flush(staged)
    staged.replace(final)
    flush(final.parent)


def remove(path: Path) -> None:
    """Deletes a file, a link (not its target) or a folder; does nothing where there is none."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif os.path.lexists(path):
        shutil.rmtree(path)
