"""Access to remote storage through fsspec (s3://, gs://, hf:// ...): opening a URL, timeouts, one-line errors."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.registry import known_implementations

from recipe.system.errors import UserError
from recipe.system.hub import go_offline_unless_reachable

CONTACT_SECONDS = 30.0  # timeout of a server's first answer; where nobody listens, libraries retry for minutes
_HINTS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true for a public bucket; "
    "AWS_ENDPOINT_URL for a server that isn't Amazon's",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GS_TOKEN=anon for "
    "a public bucket",
    "hf": "check the name, and log in with hf auth login",
}
_T = TypeVar("_T")


def is_remote(path: str) -> bool:
    """Whether `path` is a URL, such as s3://bucket/file."""
    return "://" in path


def open_filesystem(url: str, token: str | None = None):
    """(fsspec file system, path in it) of a URL or a local path; `token` is the hub's.

    Raises UserError where the scheme is unknown, its package isn't installed, or the hub can't be reached.
    """
    scheme = url.split("://")[0] if is_remote(url) else "file"
    if scheme == "hf" and not go_offline_unless_reachable():
        raise UserError(f"{url} is on the Hugging Face hub, which cannot be reached from here: pass a local path")
    try:
        options = {"token": token} if scheme == "hf" and token else {}
        return fsspec.core.url_to_fs(url if is_remote(url) else str(Path(url).expanduser()), **options)
    except ImportError as error:
        package = known_implementations.get(scheme, {}).get("class", scheme).split(".")[0]
        raise UserError(f"{url} needs the package {package}: run pip install {package}") from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in _HINTS)
        raise UserError(f"found the URL {url}, expected a path or {known} ... ({error})") from error
    except Exception as error:  # each service has its own errors
        raise access_error(url, error) from error


def with_timeout(url: str, call: Callable[[], _T]) -> _T:
    """Returns what `call()` returns, or raises what it raises; UserError if it takes longer than CONTACT_SECONDS."""
    outcome: list = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except Exception as error:  # re-raised in the calling thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CONTACT_SECONDS)
    if not outcome:
        raise UserError(f"{url}: no answer within {CONTACT_SECONDS:.0f} s: check the network and the URL")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def access_error(url: str, error: BaseException | None, doing: str = "read") -> UserError:
    """The UserError for a failed access to `url`, with a hint on credentials for its service."""
    hint = _HINTS.get(url.split("://")[0], "check the URL and the credentials")
    return UserError(f"cannot {doing} {url}: {reason_of(error)}: {hint}")


def reason_of(error: BaseException | None) -> str:
    """The first line of an error's message without its full stop, or the error's type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
