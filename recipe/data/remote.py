"""Remote files: fetched once per node from any fsspec URL and verified; archives, local ones too, are unpacked.

A download is staged in a folder NAME.partial, which is renamed once sizes and hashes match, so that an incomplete
download is never used; the next call resumes it. Archives, listings and manifests are not trusted: a name outside of
its folder is refused.
"""

import json
import re
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from fsspec.implementations.local import LocalFileSystem

from recipe.data.archives import (
    has_archive_suffix,
    require_disk_space,
    require_inside,
    require_safe_unpacking,
    unpack,
    without_archive_suffix,
)
from recipe.data.filesystems import access_error, is_remote, open_filesystem, reason_of, with_timeout
from recipe.data.prepared_tokens import PREPARED
from recipe.system.errors import DISK_FULL, SourceBroken, UserError
from recipe.system.files import publish_folder, remove, sha256_of
from recipe.system.locks import exclusive_lock
from recipe.system.manifest import MANIFEST, damage
from recipe.system.progress import BYTES, Progress
from recipe.system.secrets import url_identity

CHUNK = 16 << 20  # bytes per request
_CHECKSUM = re.compile(r"#sha256=([0-9a-fA-F]{64})$")
# The keys under which S3, GCS, the hub, HTTP servers and other services report a file's version.
_VERSION = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "LastModified", "last_modified", "mtime", "created")
_VERSION += ("Content-MD5", "Digest", "Last-Modified")


@dataclass(frozen=True)
class Fetched:
    """The result of `fetch`: a local file or folder, its name without archive suffixes, and a JSON description that
    changes with the content (None for local files, which are used in place)."""

    path: Path
    name: str
    description: dict | None


def is_archive(path: str) -> bool:
    """Whether the path or URL `path` names a tar archive, with or without #sha256=..."""
    return has_archive_suffix(_file_name(_CHECKSUM.sub("", path)))


def fetch(source: str, downloads: Path, token: str | None = None) -> Fetched:
    """Makes `source`, a path or URL, available locally: downloads it where it is remote, unpacks it if it is an
    archive.

    A file or archive is compared with its hash if #sha256=HEX follows; a folder of prepared tokens with its manifest.
    One process per node works in `downloads`, the others wait. `token` is the hub's. User information and signatures in
    a URL are used but not stored: a URL with a new signature finds the files fetched with an older one. Raises
    UserError for a source that is missing, forbidden, unreachable or damaged, SourceBroken for an interrupted download.
    """
    url, checksum = _CHECKSUM.sub("", source), _CHECKSUM.search(source)
    expected = checksum[1].lower() if checksum else None
    system, root = open_filesystem(url, token)
    local, archive = isinstance(system, LocalFileSystem), is_archive(url)
    if archive:
        require_safe_unpacking()
    name = slug(without_archive_suffix(_file_name(url)))
    if local and not archive:
        if expected and Path(root).is_file():
            _require_hash(Path(root), expected, url)
        return Fetched(Path(root), name, None)
    files = _list_files(system, root, url)
    if expected and "" not in files:
        raise UserError(f"{url} is a folder, #sha256= is for a file: leave it out")
    description = {
        "address": url_identity(url),
        "sha256": expected,
        "files": {inside: [info["size"], _version_of(info)] for inside, info in sorted(files.items())},
    }
    digest = sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
    folder = downloads / f"{name}-{digest}"
    staged = folder.with_name(folder.name + ".partial")
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(downloads / f"{folder.name}.lock", f"fetches {url}"):
            if not folder.exists():
                stage = _stage_archive if archive else _stage_files
                publish_folder(stage(system, root, files, staged, url, expected), folder)
                remove(staged)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(f"cannot write to {downloads}: {error.strerror or error}: pass --prepared_dir") from error
    if not archive:
        return Fetched(folder / _file_name(root) if "" in files else folder, name, description)
    top = list(folder.iterdir())
    return Fetched(top[0] if len(top) == 1 and top[0].is_dir() else folder, name, description)


def slug(name: str) -> str:
    """`name` with every character replaced that isn't safe in a file name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80] or "corpus"


def _file_name(path: str) -> str:
    """The last component of a path or URL, without a URL's query."""
    if not is_remote(path):
        return PurePosixPath(path.rstrip("/")).name
    return PurePosixPath(url_identity(path).split("://")[-1].partition("?")[0].rstrip("/")).name


# ---- listing


def _list_files(system, root: str, url: str) -> dict[str, dict]:
    """{path relative to `root`: fsspec's details} of all files; the path is "" where `root` itself is a file."""
    system.invalidate_cache()
    try:
        details = with_timeout(url, lambda: system.info(root))
        if details["type"] == "file":
            return {"": details}
        root = system._strip_protocol(root).rstrip("/")
        found = system.find(root, detail=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        if getattr(error.__cause__, "status", 404) != 404:  # fsspec raises this for every HTTP error
            raise access_error(url, error.__cause__) from error
        raise UserError(f"found nothing at {url}: check the URL") from error
    except Exception as error:
        raise access_error(url, error) from error
    files = {path[len(root) :].lstrip("/"): details for path, details in found.items() if not path.endswith("/")}
    for inside in files:
        require_inside(inside, url)
    if not files:
        raise UserError(f"found an empty folder at {url}: check the URL")
    return files


def _version_of(details: dict) -> str:
    return str(next((details[key] for key in _VERSION if details.get(key)), ""))


# ---- downloading


def _stage_files(system, root: str, files: dict, staged: Path, url: str, expected: str | None) -> Path:
    """Downloads a file or a folder's files; returns the folder that holds them, verified."""
    if PREPARED in files and MANIFEST not in files:
        raise UserError(f"{url} has {PREPARED} and no {MANIFEST}: its upload was not finished; run it again")
    whole = staged / "whole"
    targets = {inside: whole / (inside or _file_name(root)) for inside in files}
    _download_all(system, root, files, targets, url)
    if expected:
        _require_hash(targets[""], expected, url, delete=True)
    with Progress(f"verifying {url_identity(url)}"):
        reason = damage(whole) if PREPARED in files else None
    if reason:
        shutil.rmtree(whole)  # the next attempt starts over
        raise UserError(f"{url} was damaged on the way: {reason}: fetch it again, or upload it again")
    return whole


def _stage_archive(system, root: str, files: dict, staged: Path, url: str, expected: str | None) -> Path:
    """Downloads an archive unless it is local, and unpacks it; returns the folder of its content."""
    local = isinstance(system, LocalFileSystem)
    packed = Path(root) if local else staged / "archive"
    if not local:
        _download_all(system, root, files, {"": packed}, url)
    if expected:
        _require_hash(packed, expected, url, delete=not local)
    whole = staged / "whole"
    try:
        unpack(packed, whole, url)
    except UserError:
        shutil.rmtree(staged)  # complete by its size, but unusable: the next attempt starts over
        raise
    return whole


def _download_all(system, root: str, files: dict, targets: dict[str, Path], url: str) -> None:
    staged = next(iter(targets.values())).parent
    staged.mkdir(parents=True, exist_ok=True)
    total = sum(details["size"] for details in files.values())
    require_disk_space(staged, total, url)
    with Progress(f"fetching {url_identity(url)}", total, BYTES) as progress:
        for inside, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            path = f"{root.rstrip('/')}/{inside}" if inside else root
            _download(system, path, files[inside]["size"], target, progress)


def _download(system, path: str, size: int, target: Path, progress: Progress) -> None:
    """Downloads one file of `size` bytes, resuming after the bytes that `target` already holds."""
    have = target.stat().st_size if target.exists() else 0
    if have > size:
        target.unlink()
        have = 0
    if have:
        progress.update(have)
        progress.restart()
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
                    progress.update(len(chunk))
    except Exception as error:  # each service has its own errors
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise SourceBroken(
            f"the download of {path} was interrupted at {have:,} of {size:,} bytes: {reason_of(error)}: run again to "
            "continue it"
        ) from error


def _require_hash(file: Path, expected: str, url: str, delete: bool = False) -> None:
    with Progress(f"verifying {file.name}"):
        found = sha256_of(file)
    if found != expected:
        if delete:
            file.unlink()
        raise UserError(f"{url} has the sha256 {found}, expected {expected}: it is damaged, or another file")
