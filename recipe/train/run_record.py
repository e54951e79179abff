"""The record of a run, run.json: command, settings, data, versions, and the resume signature, which must not change."""

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
PLAN = "plan.json"  # beside it: the plan of the run, see recipe.train.plan
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "deepspeed", "numpy")


def record_run(folder: Path, signature: dict, settings: dict, allow_changed: str = "") -> dict:
    """Builds the record with `build_record`, writes it to run.json, and returns it."""
    record = build_record(folder, signature, settings, allow_changed)
    write_record(folder, record)
    return record


def build_record(
    folder: Path, signature: dict, settings: dict, allow_changed: str = "", resumed_from: Path | None = None
) -> dict:
    """The record of a run in `folder`, without secrets, compared with the one that is there; nothing is written.

    `signature` is the resume signature, the settings that decide what the run computes (the key "meaning" of run.json).
    On resume each must have its former value, unless `allow_changed` (names separated by commas) lists it; likewise
    those of another run whose checkpoint `resumed_from` is. `settings`, all others, may change. Raises UserError with
    both values of the first setting that differs.
    """
    allowed = {name.strip() for name in allow_changed.split(",") if name.strip()}
    if unknown := sorted(allowed - set(signature)):
        raise UserError(f"--allow_changed names {', '.join(unknown)}, expected some of {', '.join(signature)}")
    signature = redact_all(json.loads(json.dumps(signature)))  # as read back from JSON, whose keys are strings
    history = []
    if before := redact_all(_recorded(folder)):
        changed = changes(
            folder, before["meaning"], signature, allowed, "use the former, another RUN_NAME or OUTPUT_DIR,"
        )
        history = [*before.get("history", []), *([{"changed": changed}] if changed else [])]
    origin = resumed_from and resumed_from.resolve().parent
    if origin and origin != folder.resolve() and (other := redact_all(_recorded(origin))):
        changed = changes(origin, other["meaning"], signature, allowed, "use the former")
        begun = {"resumed_from": str(resumed_from), "changed": changed}
        history += [begun] if begun not in history else []
    return {
        "command": redact_words(sys.argv),
        "meaning": signature,
        "settings": redact_all(settings),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "history": history,
        "wandb_run_id": before.get("wandb_run_id") or uuid.uuid4().hex[:12],
    }


def changes(folder: Path, before: dict, now: dict, allowed: set[str], instead: str) -> dict[str, list]:
    """{name: [before, now]} for each setting of `folder`'s run that changed.

    Raises UserError for the first one that isn't in `allowed`; one that `before` doesn't have may be added. `instead`
    is the remedy in the message.
    """
    changed = {name: [before.get(name), value] for name, value in now.items() if before.get(name) != value}
    for name in (name for name in changed if name in before and name not in allowed):
        raise UserError(
            f"{folder} was begun with {name} {_short(before[name])}, now it is {_short(now[name])}: {instead} or "
            f"--allow_changed {name}"
        )
    return changed


def write_record(folder: Path, record: dict) -> None:
    """Writes run.json atomically."""
    write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _recorded(folder: Path) -> dict:
    """The content of a folder's run.json; {} if there is none. Raises UserError if it is damaged."""
    try:
        record = checked_record(folder / RECORD)
        if "meaning" not in record:
            raise DamagedFile('has no "meaning", the resume signature of its run')
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        raise UserError(
            f"{folder / RECORD} {error}: restore a copy of it, or move it away: the settings that {folder} was begun "
            "with are then no longer compared"
        ) from error
    return record


def checked_record(path: Path) -> dict:
    """The content of a run.json. Raises FileNotFoundError if there is none, DamagedFile if it isn't in the format that
    `record_run` writes."""
    record = read_object(path)
    if fault := next((name for name, is_valid in _FIELDS.items() if not is_valid(record)), None):
        raise DamagedFile(f"has no {fault} as this project writes it")
    return record


def _has_type(kind: type | tuple[type, ...], value: object) -> bool:
    return isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)


# {part of run.json: whether it has the type that its readers expect}
_FIELDS: dict[str, Callable[[dict], bool]] = {
    "meaning": lambda record: _has_type(dict, record.get("meaning", {})),
    "meaning.model": lambda record: _has_type(dict, record.get("meaning", {}).get("model", {})),
    "meaning.max_hours": lambda record: _has_type((int, float), record.get("meaning", {}).get("max_hours") or 0),
    **{
        f"meaning.{name}": lambda record, name=name: _has_type(int, record.get("meaning", {}).get(name) or 0)
        for name in ("max_steps", "global_batch_size", "max_seq_length")
    },
    "settings": lambda record: _has_type(dict, record.get("settings", {})),
    "packages": lambda record: _has_type(dict, record.get("packages", {})),
    "command": lambda record: (
        _has_type(list, words := record.get("command", [])) and all(_has_type(str, word) for word in words)
    ),
    "history": lambda record: (
        _has_type(list, changes := record.get("history", []))
        and all(_has_type(dict, change) and _has_type(dict, change.get("changed", {})) for change in changes)
    ),
    "wandb_run_id": lambda record: _has_type(str, record.get("wandb_run_id") or ""),
}


def read_record(folder: Path) -> dict:
    """The content of a folder's run.json; {} if there is none or it is damaged."""
    try:
        return checked_record(folder / RECORD)
    except (OSError, DamagedFile):
        return {}


def require_identical_ranks(signature: dict) -> None:
    """Compares the code, packages and resume signature of all ranks; every rank must call it.

    Raises UserError on every rank, with the first value that differs, unless all are identical.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    packages = {name: _version(name) for name in PACKAGES}
    mine = {"host": platform.node(), "values": {"code": _code_fingerprint(), **packages, **signature}}
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
    """sha256 of the Python files of the recipe and its scripts."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "recipe").rglob("*.py"), *ROOT.glob("*.py")]):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _short(value: object) -> str:
    # Redacted before it is cut: a secret in a part of a URL isn't recognised.
    text = redact(value if isinstance(value, str) else json.dumps(value))
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
