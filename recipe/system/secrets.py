"""Redaction of secrets: tokens, keys, passwords and signatures in URLs.

Secrets are the values of flags, environment variables and query parameters whose names end like those of secrets, and
the user information of a URL. `redact` replaces them where the context shows what they are (a flag, a variable, a URL)
and, if they are too long or too unusual for a common word, wherever else they occur. Text that could quote the command,
a URL or an error has to pass through `redact` or `redact_all`; `redact_console` covers everything that is printed.
`url_identity` identifies the data behind a URL: signatures expire, corpora stay.

    python -m recipe.system.secrets WORD ...     prints a command without its secrets, quoted for a shell
"""

import base64
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

T = TypeVar("T")

HIDDEN = "<hidden>"
# Endings of the names of flags, variables, JSON keys and query parameters, in lower case.
_SECRET_ENDINGS = ("token", "key", "secret", "password", "passwd", "passphrase", "_pass", "key_id", "signature")
_SECRET_ENDINGS += ("credential", "connection_string", "accessid", "keyid", "pair-id")
_SPECIAL_TOKEN = re.compile(r"(?:bos|eos|unk|sep|pad|cls|mask|special)_token$")  # settings of tokenizers
_SECRET_PARAMETERS = {"sig", "sas", "policy", "auth", "authorization", "jwt", "hmac", "code", "pwd"}
# Parameters that change with a signature: those of Azure, CloudFront and S3's older scheme. x-amz- and x-goog- all do.
_SIGNED_WITH = re.compile("expires|sv|s[eiprst]|spr|sip|srt|sk(?:e|oid|s|t|tid|v)|sdd|saoid|suoid|scid")
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs", "az", "adl")  # container@account is not user information
_URL = re.compile(r"""[a-zA-Z][a-zA-Z0-9+.-]*://(?:(?!::[a-zA-Z][\w+.-]*(?:://|::))[^\s"'<>`])+""")
_PARAMETER = re.compile(r"""([?&;]|%3F|%26)(?P<name>[\w.-]+)(=|%3D)(?P<value>(?:(?!%26)[^\s&;#"'<>`\\])+)""", re.I)
_ASSIGNMENT = re.compile(r"""\b(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>'[^']*'|"[^"]*"|[^\s"']+)""")
_FLAG = re.compile(r"""(?P<name>--[\w-]+)=(?P<value>'[^']*'|"[^"]*"|[^\s"']+)""")
_KNOWN_SHAPES = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=[Bb]earer )[\w.~+/=-]{8,}|(?<=[Bb]asic )[\w+/=]{16,}")
_END_OF_SENTENCE = ".,:;)]}"

_remembered: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Whether a flag, variable, JSON key or query parameter of this name holds a secret."""
    name = name.lstrip("-").lower()
    return name.endswith(_SECRET_ENDINGS) and not _SPECIAL_TOKEN.search(name)


# ---- URLs


def _parts(url: str) -> tuple[str, str, str]:
    """(scheme://, user information or "", the rest) of a URL. Tolerates an unescaped slash in a password."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = authority.rpartition("@")[0]
    port = authority.rpartition(":")[2]
    if not user and ":" in authority and not authority.startswith("[") and not port.isdigit() and "@" in rest:
        user = rest.rpartition("@")[0]
    if not user or (scheme.lower() in _CONTAINER_SCHEMES and ":" not in user):
        return f"{scheme}://", "", rest
    return f"{scheme}://", user, rest[len(user) + 1 :]


def _is_secret_parameter(name: str) -> bool:
    return is_secret_name(name) or name.lower() in _SECRET_PARAMETERS


def _redact_url(url: str) -> str:
    end = url[len(url.rstrip(_END_OF_SENTENCE)) :]
    scheme, user, rest = _parts(url.removesuffix(end))
    return scheme + (f"{HIDDEN}@" if user and user != HIDDEN else "") + _redact_parameters(rest) + end


def _redact_parameters(text: str) -> str:
    def hide(found: re.Match) -> str:
        if not _is_secret_parameter(found["name"]):
            return found[0]
        end = found["value"][len(found["value"].rstrip(_END_OF_SENTENCE)) :]
        return f"{found[1]}{found['name']}{found[3]}{HIDDEN}{end}"

    return _PARAMETER.sub(hide, text) if "=" in text or "%3" in text else text


def url_identity(url: str) -> str:
    """`url` without user information, signatures and the parameters that change with a signature, as an identifier of
    the data behind it. A URL without any of these is returned unchanged."""
    pieces = re.split(r"::(?=[a-zA-Z][\w+.-]*(?:://|::))", url)
    return "::".join(_identity_of_one(piece) if "://" in piece else piece for piece in pieces)


def _identity_of_one(url: str) -> str:
    scheme, _, rest = _parts(url)
    path, mark, query = rest.partition("?")
    if not mark:
        return scheme + rest
    query, hashed, fragment = query.partition("#")
    names = [part.partition("=")[0].lower() for part in query.split("&")]
    signed = any(map(_is_secret_parameter, names))
    kept = [
        part
        for part, name in zip(query.split("&"), names, strict=True)
        if not (
            _is_secret_parameter(name)
            or name.startswith(("x-amz-", "x-goog-"))
            or (signed and _SIGNED_WITH.fullmatch(name))
        )
    ]
    return scheme + path + (mark + "&".join(kept) if kept else "") + hashed + fragment


def _secrets_in_urls(text: str) -> Iterator[str]:
    whole = [text] if re.match(r"[a-zA-Z][\w+.-]*://\S+$", text) else []  # its password may contain quotes
    for one in [*_URL.findall(text), *whole]:
        _, user, rest = _parts(one)
        if user:
            yield user
            yield user.partition(":")[2]
            yield base64.b64encode(unquote(user).encode()).decode()  # as in a header of basic authentication
        yield from (found["value"] for found in _PARAMETER.finditer(rest) if _is_secret_parameter(found["name"]))


# ---- known secrets


def remember_secrets(words: Sequence[str]) -> None:
    """Registers the secrets in a command line, so that `redact` replaces them anywhere."""
    _remembered.update(_secrets_of_words(words))


def _secrets_of_words(words: Sequence[str]) -> Iterator[str]:
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        if equals and is_secret_name(flag) and flag.startswith("-"):
            yield value
        elif _takes_secret_next(before) and not word.startswith("--"):
            yield word
        yield from _secrets_in_urls(word)


def _takes_secret_next(word: str) -> bool:
    return word.startswith("--") and "=" not in word and is_secret_name(word)


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if value and is_secret_name(name) and not _is_path(value):
            yield value
        elif "://" in value:
            yield from _secrets_in_urls(value)


@lru_cache(maxsize=256)
def _is_path(value: str) -> bool:
    """Whether a variable such as SSH_KEY holds the path of a file and not the key."""
    return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()


def _is_distinctive(value: str) -> bool:
    """Whether `value` can't be a common word. Common and short words are redacted in their context only."""
    return len(value) >= 16 or (len(value) >= 8 and not value.isalpha())


def _known() -> frozenset[str]:
    values = filter(_is_distinctive, {*_remembered, *_secrets_of_environment()})
    return frozenset(form for value in values for form in (value, unquote(value), quote(unquote(value), safe="")))


@lru_cache(maxsize=8)
def _any_of(values: frozenset[str]) -> re.Pattern | None:
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if values else None


# ---- redaction


def redact(text: str) -> str:
    """`text` with every secret in it replaced by HIDDEN."""
    return _redact(text, _any_of(_known()))


def redact_all(value):
    """A copy of a JSON-like structure without secrets: in strings, in keys, in values of keys with secret names, and in
    lists that are command lines."""
    return _redact_all(value, _any_of(_known()))


def redact_words(words: Sequence[str]) -> list[str]:
    """A command line without its secrets."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        is_secret = _takes_secret_next(before) and not word.startswith("--")
        shown.append(HIDDEN if is_secret else redact(word))
    return shown


def _redact(text: str, known: re.Pattern | None) -> str:
    def hide(found: re.Match) -> str:
        return f"{found['name']}={HIDDEN}" if is_secret_name(found["name"]) else found[0]

    if "://" in text:
        text = _URL.sub(lambda found: _redact_url(found[0]), text)
    if "=" in text:
        text = _FLAG.sub(hide, _ASSIGNMENT.sub(hide, _redact_parameters(text)))
    text = _KNOWN_SHAPES.sub(HIDDEN, text)
    return known.sub(HIDDEN, text) if known else text


def _redact_all(value: Any, known: re.Pattern | None) -> Any:
    if isinstance(value, str):
        return _redact(value, known)
    if isinstance(value, dict):
        return {
            _redact(name, known) if isinstance(name, str) else name: HIDDEN
            if isinstance(name, str) and is_secret_name(name) and isinstance(inner, str) and inner
            else _redact_all(inner, known)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        hidden = [
            HIDDEN
            if isinstance(before, str)
            and isinstance(inner, str)
            and _takes_secret_next(before)
            and not inner.startswith("--")
            else _redact_all(inner, known)
            for before, inner in zip(["", *value], value, strict=False)
        ]
        return type(value)(hidden) if type(value) in (list, tuple) else hidden
    return value


# ---- at the start of a program


def redact_console() -> None:
    """From now on redacts everything written to stdout and stderr: prints, warnings, tracebacks, progress bars and the
    output of log handlers that hold these streams.

    Call it again after another library has wrapped the streams, as W&B does. Buffers, descriptors and encodings of the
    streams don't change.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or getattr(stream.write, "redacts", False):
            continue
        stream.write = _redacting(stream.write)


def _redacting(write):
    def redacting_write(text):
        written = write(redact(text) if isinstance(text, str) else text)
        return len(text) if isinstance(text, str) else written

    redacting_write.redacts = True
    return redacting_write


def redact_argv() -> None:
    """Registers the secrets in sys.argv and removes them from it, since trackers and profilers record it."""
    remember_secrets(sys.argv)
    sys.argv = redact_words(sys.argv)


if __name__ == "__main__":
    print(shlex.join(redact_words(sys.argv[1:])))
