"""What is secret (tokens, keys, passwords, signatures of addresses), and how every text is kept free of it.

Secret are the values of flags, environment variables and query parameters whose names end as those of secrets do, and
the user information of an address. `redact` hides them where their context shows what they are (a flag, a variable, an
address) and, if they are long enough not to be ordinary words, wherever else they occur. Whoever writes text that could
quote the command, an address or an error passes it through `redact` or `redact_all`; `redact_console` does it for
everything that is printed. `url_identity` is what an address is known by: signatures expire, corpora stay.

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
from urllib.parse import quote, unquote

HIDDEN = "<hidden>"
# Ends of the names of flags, variables, JSON keys and query parameters, in small letters.
_SECRET_ENDINGS = ("token", "key", "secret", "password", "passwd", "passphrase", "_pass", "key_id", "signature")
_SECRET_ENDINGS += ("credential", "connection_string", "accessid", "keyid", "pair-id")
_SPECIAL_TOKEN = re.compile(r"(?:bos|eos|unk|sep|pad|cls|mask|special)_token$")  # names of the tokenizer's own
_SECRET_PARAMETERS = {"sig", "sas", "policy", "auth", "authorization", "jwt", "hmac", "code", "pwd"}
# What a signature covers and what changes with it: Azure's, CloudFront's and S3's older one. All of x-amz- and x-goog-.
_SIGNED_WITH = re.compile("expires|sv|s[eiprst]|spr|sip|srt|sk(?:e|oid|s|t|tid|v)|sdd|saoid|suoid|scid")
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs", "az", "adl")  # container@account is no user information
_ADDRESS = re.compile(r"""[a-zA-Z][a-zA-Z0-9+.-]*://(?:(?!::[a-zA-Z][\w+.-]*(?:://|::))[^\s"'<>`])+""")
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


# ---- addresses


def _parts(address: str) -> tuple[str, str, str]:
    """(scheme://, user information or "", the rest) of an address. An unescaped slash in a password is forgiven."""
    scheme, _, rest = address.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = place.rpartition("@")[0]
    port = place.rpartition(":")[2]
    if not user and ":" in place and not place.startswith("[") and not port.isdigit() and "@" in rest:
        user = rest.rpartition("@")[0]
    if not user or (scheme.lower() in _CONTAINER_SCHEMES and ":" not in user):
        return f"{scheme}://", "", rest
    return f"{scheme}://", user, rest[len(user) + 1 :]


def _is_secret_parameter(name: str) -> bool:
    return is_secret_name(name) or name.lower() in _SECRET_PARAMETERS


def _redact_address(address: str) -> str:
    end = address[len(address.rstrip(_END_OF_SENTENCE)) :]
    scheme, user, rest = _parts(address.removesuffix(end))
    return scheme + (f"{HIDDEN}@" if user and user != HIDDEN else "") + _redact_parameters(rest) + end


def _redact_parameters(text: str) -> str:
    def hide(found: re.Match) -> str:
        if not _is_secret_parameter(found["name"]):
            return found[0]
        end = found["value"][len(found["value"].rstrip(_END_OF_SENTENCE)) :]
        return f"{found[1]}{found['name']}{found[3]}{HIDDEN}{end}"

    return _PARAMETER.sub(hide, text) if "=" in text or "%3" in text else text


def url_identity(address: str) -> str:
    """`address` without user information, signatures and whatever changes with a signature: what data from there is
    known by. An address that has none of them is its own identity, to the letter."""
    pieces = re.split(r"::(?=[a-zA-Z][\w+.-]*(?:://|::))", address)
    return "::".join(_identity_of_one(piece) if "://" in piece else piece for piece in pieces)


def _identity_of_one(address: str) -> str:
    scheme, _, rest = _parts(address)
    place, mark, query = rest.partition("?")
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
    return scheme + place + (mark + "&".join(kept) if kept else "") + hashed + fragment


def _secrets_of_address(address: str) -> Iterator[str]:
    whole = [address] if re.match(r"[a-zA-Z][\w+.-]*://\S+$", address) else []  # its password may have quotes
    for one in [*_ADDRESS.findall(address), *whole]:
        _, user, rest = _parts(one)
        if user:
            yield user
            yield user.partition(":")[2]
            yield base64.b64encode(unquote(user).encode()).decode()  # as a header has it
        yield from (found["value"] for found in _PARAMETER.finditer(rest) if _is_secret_parameter(found["name"]))


# ---- what is known to be secret


def remember_secrets(words: Sequence[str]) -> None:
    """Takes note of the secrets in a command line, to hide them wherever they turn up."""
    _remembered.update(_secrets_of_words(words))


def _secrets_of_words(words: Sequence[str]) -> Iterator[str]:
    for before, word in zip(["", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        if equals and is_secret_name(flag) and flag.startswith("-"):
            yield value
        elif _has_its_value_next(before) and not word.startswith("--"):
            yield word
        yield from _secrets_of_address(word)


def _has_its_value_next(word: str) -> bool:
    return word.startswith("--") and "=" not in word and is_secret_name(word)


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if value and is_secret_name(name) and not _is_place(value):
            yield value
        elif "://" in value:
            yield from _secrets_of_address(value)


@lru_cache(maxsize=256)
def _is_place(value: str) -> bool:
    """Whether a variable such as SSH_KEY names a file rather than holding the key."""
    return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()


def _is_telling(value: str) -> bool:
    """Whether `value` is found by chance nowhere: ordinary words and short ones are hidden in their context alone."""
    return len(value) >= 16 or (len(value) >= 8 and not value.isalpha())


def _known() -> frozenset[str]:
    values = filter(_is_telling, {*_remembered, *_secrets_of_environment()})
    return frozenset(form for value in values for form in (value, unquote(value), quote(unquote(value), safe="")))


@lru_cache(maxsize=8)
def _any_of(values: frozenset[str]) -> re.Pattern | None:
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if values else None


# ---- hiding


def redact(text: str) -> str:
    """`text` with every secret in it replaced by HIDDEN."""
    return _redact(text, _any_of(_known()))


def redact_all(value):
    """A copy of a JSON-like structure without secrets: of its texts, keys, values by the names of their keys, and lists
    that are command lines."""
    return _redact_all(value, _any_of(_known()))


def redact_words(words: Sequence[str]) -> list[str]:
    """A command line without its secrets."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        follows_its_flag = _has_its_value_next(before) and not word.startswith("--")
        shown.append(HIDDEN if follows_its_flag else redact(word))
    return shown


def _redact(text: str, known: re.Pattern | None) -> str:
    def hide(found: re.Match) -> str:
        return f"{found['name']}={HIDDEN}" if is_secret_name(found["name"]) else found[0]

    if "://" in text:
        text = _ADDRESS.sub(lambda found: _redact_address(found[0]), text)
    if "=" in text:
        text = _FLAG.sub(hide, _ASSIGNMENT.sub(hide, _redact_parameters(text)))
    text = _KNOWN_SHAPES.sub(HIDDEN, text)
    return known.sub(HIDDEN, text) if known else text


def _redact_all(value, known: re.Pattern | None):
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
            and _has_its_value_next(before)
            and not inner.startswith("--")
            else _redact_all(inner, known)
            for before, inner in zip(["", *value], value, strict=False)
        ]
        return type(value)(hidden) if type(value) in (list, tuple) else hidden
    return value


# ---- where a program starts


def redact_console() -> None:
    """From here on whatever is written to stdout and stderr is redacted: prints, warnings, tracebacks, progress bars
    and log handlers that hold these streams. Called again, it covers what was put over it meanwhile, such as W&B's copy
    of the console. The streams stay what they are: their buffers, descriptors and encodings don't change."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or getattr(stream.write, "is_guard", False):
            continue
        stream.write = _guard_of(stream.write)


def _guard_of(write):
    def guarded(text):
        written = write(redact(text) if isinstance(text, str) else text)
        return len(text) if isinstance(text, str) else written

    guarded.is_guard = True
    return guarded


def redact_argv() -> None:
    """Once the arguments are read, sys.argv holds no secret: trackers and profilers record it as they find it."""
    remember_secrets(sys.argv)
    sys.argv = redact_words(sys.argv)


if __name__ == "__main__":
    print(shlex.join(redact_words(sys.argv[1:])))
