"""Files of elsewhere: any fsspec path (s3://, gs://, hf:// ...), fetched once a node and checked; archives unpacked.

A download is staged in a folder called .partial, which loses that name when sizes and hashes are right, so that
nothing half-written is ever taken; run again, it continues where it broke off. Names inside archives, listings and
manifests come from others: none may lead out of the folder that they are for.
"""

import json
import lzma
import re
import shutil
import tarfile
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations
from tqdm import tqdm

from recipe.system.errors import DISK_FULL, SourceBroken, UserError
from recipe.system.files import publish_folder, remove, sha256_of
from recipe.system.hub import go_offline_unless_reachable
from recipe.system.locks import exclusive_lock
from recipe.system.manifest import MANIFEST, damage, manifest_of
from recipe.system.secrets import url_identity

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PREPARED = "prepared.json"  # what marks a folder of prepared tokens; written last but for the manifest
CONTACT_SECONDS = 30.0  # for a server's first answer; where nobody listens, libraries try for minutes
CHUNK = 16 << 20  # bytes a request
_CHECKSUM = re.compile(r"#sha256=([0-9a-fA-F]{64})$")
# What tells one version of a file from another, in the words of S3, GCS, the hub, HTTP and the rest.
_VERSION = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "LastModified", "last_modified", "mtime", "created")
_VERSION += ("Content-MD5", "Digest", "Last-Modified")
_HINTS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true for a public bucket; "
    "AWS_ENDPOINT_URL for a server that isn't Amazon's",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GS_TOKEN=anon for "
    "a public bucket",
    "hf": "check the name, and log in with hf auth login",
}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Fetched:
    """What `bring` brought: a local file or folder, its name without suffixes of archives, and plain JSON that changes
    when the content does (None for what lies here as it is)."""

    path: Path
    name: str
    description: dict | None


def is_remote(path: str) -> bool:
    """Whether `path` has a scheme, such as s3://."""
    return "://" in path


def is_archive(path: str) -> bool:
    """Whether `path` names a tar archive, with or without #sha256=..."""
    return _file_name(_CHECKSUM.sub("", path)).lower().endswith(ARCHIVES)


def fetch(source: str, downloads: Path, token: str | None = None) -> Fetched:
    """Makes `source` a local file or folder: fetched if it is elsewhere, unpacked if it is an archive.

    A file or archive may be followed by #sha256=HEX, which is then checked; a folder of prepared tokens is checked by
    its manifest. One process of a node works under `downloads`, the others wait. `token` is the hub's. User information
    and signatures of an address are used and not kept: a new signature finds what was fetched with an older one.
    Raises UserError for what isn't there, isn't permitted, can't be reached or is not what it should be, SourceBroken
    where a download broke off.
    """
    address, checksum = _CHECKSUM.sub("", source), _CHECKSUM.search(source)
    expected = checksum[1].lower() if checksum else None
    system, root = _open(address, token)
    local, archive = isinstance(system, LocalFileSystem), is_archive(address)
    if archive and not hasattr(tarfile, "data_filter"):
        raise UserError("this Python unpacks archives without a filter: use 3.11.4, 3.12 or newer")
    name = _plain_name(address)
    if local and not archive:
        if expected and Path(root).is_file():
            _require_hash(Path(root), expected, address)
        return Fetched(Path(root), name, None)
    files = _list(system, root, address)
    if expected and "" not in files:
        raise UserError(f"{address} is a folder, #sha256= is for a file: leave it out")
    description = {
        "address": url_identity(address),
        "sha256": expected,
        "files": {inside: [info["size"], _version(info)] for inside, info in sorted(files.items())},
    }
    digest = sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
    folder = downloads / f"{name}-{digest}"
    staged = folder.with_name(folder.name + ".partial")
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(downloads / f"{folder.name}.lock", f"fetches {address}"):
            if not folder.exists():
                whole = _fetch_archive if archive else _fetch_files
                publish_folder(whole(system, root, files, staged, address, expected), folder)
                remove(staged)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(f"cannot write to {downloads}: {error.strerror or error}: pass --prepared_dir") from error
    if not archive:
        return Fetched(folder / _file_name(root) if "" in files else folder, name, description)
    top = list(folder.iterdir())
    return Fetched(top[0] if len(top) == 1 and top[0].is_dir() else folder, name, description)


def _fetch_files(system, root: str, files: dict, staged: Path, address: str, expected: str | None) -> Path:
    """Fetches a file or a folder's files; returns the folder that holds them, checked."""
    if PREPARED in files and MANIFEST not in files:
        raise UserError(f"{address} has {PREPARED} and no {MANIFEST}: its upload was not finished; run it again")
    whole = staged / "whole"
    targets = {inside: whole / (inside or _file_name(root)) for inside in files}
    _fetch_all(system, root, files, targets, address)
    if expected:
        _require_hash(targets[""], expected, address, remove=True)
    if PREPARED in files and (reason := damage(whole)):
        shutil.rmtree(whole)  # the next attempt begins anew
        raise UserError(f"{address} came damaged: {reason}: fetch it once more, or upload it again")
    return whole


def _fetch_archive(system, root: str, files: dict, staged: Path, address: str, expected: str | None) -> Path:
    """Fetches an archive unless it lies here, and unpacks it; returns the folder that holds what was in it."""
    local = isinstance(system, LocalFileSystem)
    packed = Path(root) if local else staged / "archive"
    if not local:
        _fetch_all(system, root, files, {"": packed}, address)
    if expected:
        _require_hash(packed, expected, address, remove=not local)
    whole = staged / "whole"
    try:
        _unpack(packed, whole, address)
    except UserError:
        shutil.rmtree(staged)  # whole by its size and useless: the next attempt begins anew
        raise
    return whole


def _fetch_all(system, root: str, files: dict, targets: dict[str, Path], address: str) -> None:
    staged = next(iter(targets.values())).parent
    staged.mkdir(parents=True, exist_ok=True)
    total = sum(info["size"] for info in files.values())
    _require_room(staged, total, address)
    with tqdm(total=total, desc=f"Fetching {address}", unit="B", unit_scale=True) as bar:
        for inside, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(system, f"{root.rstrip('/')}/{inside}" if inside else root, files[inside]["size"], target, bar)


# ---- the file systems


def _open(address: str, token: str | None = None):
    """(file system, path in it) of an address; UserError where the scheme is unknown or its package isn't installed."""
    scheme = address.split("://")[0] if is_remote(address) else "file"
    if scheme == "hf" and not go_offline_unless_reachable():
        raise UserError(f"{address} is on the Hugging Face hub, which cannot be reached from here: pass a local path")
    try:
        options = {"token": token} if scheme == "hf" and token else {}
        return fsspec.core.url_to_fs(address if is_remote(address) else str(Path(address).expanduser()), **options)
    except ImportError as error:
        package = known_implementations.get(scheme, {}).get("class", scheme).split(".")[0]
        raise UserError(f"{address} needs the package {package}: run pip install {package}") from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in _HINTS)
        raise UserError(f"found the address {address}, expected a path or {known} ... ({error})") from error
    except Exception as error:  # each service has its own errors
        raise _unreadable(address, error) from error


def _list(system, root: str, address: str) -> dict[str, dict]:
    """{name inside `root`: details} of the files there; the name is "" where `root` is a file itself."""
    system.invalidate_cache()
    try:
        about = _within(CONTACT_SECONDS, address, lambda: system.info(root))
        if about["type"] == "file":
            return {"": about}
        root = system._strip_protocol(root).rstrip("/")
        found = system.find(root, detail=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        if getattr(error.__cause__, "status", 404) != 404:  # what fsspec makes of every answer of an HTTP server
            raise _unreadable(address, error.__cause__) from error
        raise UserError(f"found nothing at {address}: check the address") from error
    except Exception as error:
        raise _unreadable(address, error) from error
    files = {path[len(root) :].lstrip("/"): info for path, info in found.items() if not path.endswith("/")}
    for inside in files:
        _require_inside(inside, address)
    if not files:
        raise UserError(f"found an empty folder at {address}: check the address")
    return files


def _within(seconds: float, address: str, ask: Callable[[], _T]) -> _T:
    """What `ask()` returns or raises, or UserError if that takes longer than `seconds`."""
    answer: list = []

    def run() -> None:
        try:
            answer.append((ask(), None))
        except Exception as error:  # carried to the caller
            answer.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise UserError(f"{address}: no answer within {seconds:.0f} s: check the network and the address")
    value, error = answer[0]
    if error is not None:
        raise error
    return value


def _unreadable(address: str, error: Exception, doing: str = "read") -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    hint = _HINTS.get(address.split("://")[0], "check the address and the credentials")
    return UserError(f"cannot {doing} {address}: {reason.rstrip('.')}: {hint}")


def _version(info: dict) -> str:
    return str(next((info[key] for key in _VERSION if info.get(key)), ""))


def _fetch(system, path: str, size: int, target: Path, bar: tqdm) -> None:
    """Fetches the rest of one file: what `target` holds already is its beginning."""
    have = target.stat().st_size if target.exists() else 0
    if have > size:
        target.unlink()
        have = 0
    bar.update(have)
    try:
        with target.open("ab") as out:
            if have == size:
                return
            with system.open(path, "rb", block_size=CHUNK, cache_type="none") as stream:
                stream.seek(have)
                while have < size:
                    chunk = stream.read(min(CHUNK, size - have))
                    if not chunk:
                        raise EOFError("the connection was closed")
                    out.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise _broken(path, have, size, error) from error
    except Exception as error:  # each service has its own errors
        raise _broken(path, have, size, error) from error


def _broken(path: str, have: int, size: int, error: Exception) -> SourceBroken:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return SourceBroken(
        f"the download of {path} broke off at {have:,} of {size:,} bytes: {reason}: run again, it continues"
    )


# ---- checks


def _require_hash(file: Path, expected: str, address: str, remove: bool = False) -> None:
    if (found := sha256_of(file)) != expected:
        if remove:
            file.unlink()
        raise UserError(f"{address} has the sha256 {found}, expected {expected}: it is damaged, or not that file")


def _require_inside(name: str, address: str) -> None:
    """Raises UserError where the relative `name` would lead out of its folder."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or "\0" in name:
        raise UserError(f"{address} holds the name {name!r}, which leads out of its folder: don't use it")


def _require_room(folder: Path, needed: int, address: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"{address} takes {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: make room or pass "
            "--prepared_dir"
        )


def _plain_name(address: str) -> str:
    name = _file_name(address)
    for suffix in ARCHIVES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return slug(name)


def _file_name(address: str) -> str:
    """The last name of a path or address, without the query of the latter."""
    if not is_remote(address):
        return PurePosixPath(address.rstrip("/")).name
    return PurePosixPath(url_identity(address).split("://")[-1].partition("?")[0].rstrip("/")).name


def slug(name: str) -> str:
    """`name` as part of a file's name, whatever characters it has."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80] or "corpus"


# ---- archives


def _unpack(archive: Path, folder: Path, address: str) -> None:
    """Unpacks a tar archive of files and folders into the new `folder`; anything else in it is refused."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unpacked = 0
    try:
        with tarfile.open(archive, "r:*") as members:
            for member in members:
                if not member.isfile() and not member.isdir():
                    raise UserError(f"{address} holds {member.name!r}, a link or device: expected files and folders")
                if not PurePosixPath(member.name).parts:
                    continue  # the folder itself, "./"
                _require_inside(member.name, address)
                _require_room(folder, member.size, address)
                unpacked += member.isfile()
                members.extract(member, folder, filter="data")
            while members.fileobj.read(CHUNK):  # the compression's own checksum stands at the very end
                pass
    except tarfile.FilterError as error:
        raise UserError(f"{address} holds a name that leads out of it ({error}): don't use it") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{address} is not a whole archive ({error}): make or download it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{address} is not a whole archive ({error}): make or download it again") from error
    if not unpacked:
        raise UserError(f"{address} is an empty archive: expected data")


# ---- the way out


def require_writable(address: str) -> None:
    """Writes and deletes a few bytes under `address`. Raises UserError where that isn't possible."""
    system, root = _open(address)
    probe = f"{root.rstrip('/')}/.writable"
    try:
        _within(CONTACT_SECONDS, address, lambda: _put(system, b"?", probe))
        system.rm_file(probe)
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(address, error, "write to") from error


def push(files: dict[str, Path], address: str) -> bool:
    """Copies `files`, by their names there, to the folder `address`, and a manifest of them last, so that what is
    unfinished isn't taken. Returns False where the same files are there already. Raises UserError where it fails."""
    system, root = _open(address)
    system.invalidate_cache()
    root = root.rstrip("/")
    manifest = manifest_of(files)
    try:
        if system.exists(f"{root}/{MANIFEST}"):
            if system.cat_file(f"{root}/{MANIFEST}") == manifest.encode():
                return False
            system.rm_file(f"{root}/{MANIFEST}")
        total = sum(file.stat().st_size for file in files.values())
        with tqdm(total=total, desc=f"Writing {address}", unit="B", unit_scale=True) as bar:
            for name, file in files.items():
                _put(system, file, f"{root}/{name}")
                found, expected = system.info(f"{root}/{name}")["size"], file.stat().st_size
                if found != expected:
                    raise OSError(f"{name} has {found} bytes there, expected {expected}")
                bar.update(expected)
        _put(system, manifest.encode(), f"{root}/{MANIFEST}")
    except Exception as error:  # each service has its own errors
        raise _unreadable(address, error, "write to") from error
    return True


def _put(system, content: Path | bytes, path: str) -> None:
    if isinstance(system, LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        system.pipe_file(path, content)
    else:
        system.put_file(str(content), path)
