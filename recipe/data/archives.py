"""Tar archives, unpacked without trusting them: only files and folders, and none outside of the target folder."""

import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from recipe.system.errors import UserError
from recipe.system.progress import BYTES, Progress
from recipe.system.secrets import url_identity

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_READ_BYTES = 1 << 20


def has_archive_suffix(name: str) -> bool:
    """Whether a file's name is that of a tar archive."""
    return name.lower().endswith(SUFFIXES)


def without_archive_suffix(name: str) -> str:
    """A file's name without the suffix of a tar archive."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def require_safe_unpacking() -> None:
    """Raises UserError where this Python's tarfile has no extraction filter."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python unpacks archives without a filter: use 3.11.4, 3.12 or newer")


def unpack(archive: Path, folder: Path, url: str) -> None:
    """Unpacks a tar archive into the new folder `folder`; `url` names the archive in messages.

    Raises UserError for an archive that is damaged, cut short, empty or too large for the disk, and for one with links,
    devices or names outside of the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unpacked = 0
    try:
        with (
            archive.open("rb") as packed,
            tarfile.open(fileobj=packed, mode="r:*") as members,
            Progress(f"unpacking {url_identity(url)}", archive.stat().st_size, BYTES, packed.tell),
        ):
            for member in members:
                if not member.isfile() and not member.isdir():
                    raise UserError(f"{url} holds {member.name!r}, a link or device: expected files and folders")
                if not PurePosixPath(member.name).parts:
                    continue  # the folder itself, "./"
                require_inside(member.name, url)
                require_disk_space(folder, member.size, url)
                unpacked += member.isfile()
                members.extract(member, folder, filter="data")
            while members.fileobj.read(_READ_BYTES):  # the compression's own checksum is at the very end
                pass
    except tarfile.FilterError as error:
        raise UserError(f"{url} holds a name outside of it ({error}): don't use it") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{url} is damaged or incomplete ({error}): make or download it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{url} is damaged or incomplete ({error}): make or download it again") from error
    if not unpacked:
        raise UserError(f"{url} is an empty archive: expected data")


def require_inside(name: str, url: str) -> None:
    """Raises UserError where the relative path `name`, listed by `url`, would be outside of its folder."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or "\0" in name:
        raise UserError(f"{url} holds the name {name!r}, which is outside of its folder: don't use it")


def require_disk_space(folder: Path, needed: int, url: str) -> None:
    """Raises UserError where the disk of `folder` has less than `needed` bytes free."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"{url} takes {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: free some space or pass "
            "--prepared_dir"
        )
