"""A run's record, run.json: what it was told, on what data and with which versions; and what may change on resume."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_object, write_atomically
from recipe.system.paths import ROOT
from recipe.system.secrets import redact, redact_all, redact_words

RECORD = "run.json"
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "deepspeed", "numpy")


def record_run(folder: Path, meaning: dict, settings: dict, allow_changed: str = "") -> dict:
    """Writes run.json, or checks it against the one that is there, and returns the record: see `build_record`."""
    record = build_record(folder, meaning, settings, allow_changed)
    write_record(folder, record)
    return record


def build_record(
    folder: Path, meaning: dict, settings: dict, allow_changed: str = "", resumed_from: Path | None = None
) -> dict:
    """The record of a run in `folder`, without secrets, checked against the one that is there; nothing is written.

    `meaning` holds the settings that decide what the run computes; on resume each must be as it was, unless
    `allow_changed` (names separated by commas) lists it. The same holds for the run.json of the folder in which
    `resumed_from` lies, the checkpoint that is resumed from, if that is another run's. `settings` is everything else
    worth knowing, free to change. Raises UserError with both values of the first setting that differs.
    """
    allowed = {name.strip() for name in allow_changed.split(",") if name.strip()}
    if unknown := sorted(allowed - set(meaning)):
        raise UserError(f"--allow_changed names {', '.join(unknown)}, expected some of {', '.join(meaning)}")
    meaning = redact_all(json.loads(json.dumps(meaning)))  # as it will be read back: keys are text
    history = []
    if before := redact_all(_recorded(folder)):
        changed = changes(folder, before["meaning"], meaning, allowed, "use the former, another OUTPUT_DIR,")
        history = [*before.get("history", []), *([{"changed": changed}] if changed else [])]
    origin = resumed_from and resumed_from.resolve().parent
    if origin and origin != folder.resolve() and (other := redact_all(_recorded(origin))):
        changed = changes(origin, other["meaning"], meaning, allowed, "use the former")
        begun = {"resumed_from": str(resumed_from), "changed": changed}
        history += [begun] if begun not in history else []
    return {
        "command": redact_words(sys.argv),
        "meaning": meaning,
        "settings": redact_all(settings),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "history": history,
        "wandb_run_id": before.get("wandb_run_id") or uuid.uuid4().hex[:12],
    }


def changes(folder: Path, before: dict, now: dict, allowed: set[str], instead: str) -> dict[str, list]:
    """{name: [before, now]} of the settings of `folder`'s run that differ from those `before`.

    Raises UserError for the first one that isn't `allowed` to; a setting that `before` doesn't know is.
    """
    changed = {name: [before.get(name), value] for name, value in now.items() if before.get(name) != value}
    for name in (name for name in changed if name in before and name not in allowed):
        raise UserError(
            f"{folder} was begun with {name} {_short(before[name])}, now it is {_short(now[name])}: {instead} or "
            f"--allow_changed {name}"
        )
    return changed


def write_record(folder: Path, record: dict) -> None:
    """Writes run.json, whole or not at all."""
    write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _recorded(folder: Path) -> dict:
    """The content of a folder's run.json, {} where there is none. Raises UserError where it is damaged."""
    try:
        record = checked_record(folder / RECORD)
        if "meaning" not in record:
            raise DamagedFile("says nothing of what the run means")
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        raise UserError(
            f"{folder / RECORD} {error}: put a copy of it back, or move it away: the settings that {folder} was begun "
            "with are then no longer compared"
        ) from error
    return record


def checked_record(path: Path) -> dict:
    """The content of a run.json. Raises FileNotFoundError where there is none, DamagedFile where it isn't as
    `record_run` writes it."""
    record = read_object(path)
    if fault := next((name for name, is_right in _FIELDS.items() if not is_right(record)), None):
        raise DamagedFile(f"has no {fault} as this project writes it")
    return record


def _is(kind: type | tuple[type, ...], value: object) -> bool:
    return isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)


# What each part of a run.json must be for those who read it.
_FIELDS: dict[str, Callable[[dict], bool]] = {
    "meaning": lambda record: _is(dict, record.get("meaning", {})),
    "meaning.model": lambda record: _is(dict, record.get("meaning", {}).get("model", {})),
    "meaning.max_hours": lambda record: _is((int, float), record.get("meaning", {}).get("max_hours") or 0),
    **{
        f"meaning.{name}": lambda record, name=name: _is(int, record.get("meaning", {}).get(name) or 0)
        for name in ("max_steps", "global_batch_size", "max_seq_length")
    },
    "settings": lambda record: _is(dict, record.get("settings", {})),
    "packages": lambda record: _is(dict, record.get("packages", {})),
    "command": lambda record: _is(list, words := record.get("command", [])) and all(_is(str, word) for word in words),
    "history": lambda record: (
        _is(list, changes := record.get("history", []))
        and all(_is(dict, change) and _is(dict, change.get("changed", {})) for change in changes)
    ),
    "wandb_run_id": lambda record: _is(str, record.get("wandb_run_id") or ""),
}


def read_record(folder: Path) -> dict:
    """The content of a folder's run.json, {} where there is none or where it is damaged."""
    try:
        return checked_record(folder / RECORD)
    except (OSError, DamagedFile):
        return {}


def require_identical_ranks(meaning: dict) -> None:
    """Compares code, packages and `meaning` of all ranks; every rank must call it.

    Raises UserError on each of them, with the first value that differs and where, unless they are alike.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    packages = {name: _version(name) for name in PACKAGES}
    mine = {"host": platform.node(), "values": {"code": _code_fingerprint(), **packages, **meaning}}
    ranks: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, mine)
    first = ranks[0]
    for rank, other in enumerate(ranks):
        for name in {**first["values"], **other["values"]}:
            expected, found = (values.get(name) for values in (first["values"], other["values"]))
            if found != expected:
                raise UserError(
                    f"rank {rank} on {other['host']} has {name} {_short(found)}, rank 0 on {first['host']} has {name} "
                    f"{_short(expected)}: start all of them with the same code, packages, data and settings"
                )


def _code_fingerprint() -> str:
    """sha256 over the recipe's own files and its scripts."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "recipe").rglob("*.py"), *ROOT.glob("*.py")]):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _short(value: object) -> str:
    text = redact(value if isinstance(value, str) else json.dumps(value))  # first: half an address hides its secret
    return text if len(text) <= 120 else text[:117] + "..."


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
