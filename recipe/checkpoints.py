"""Checkpoints that are whole or not there: staged, hashed, then renamed.

A checkpoint is written to a staging folder, gets manifest.json (every file with its size and sha256) last, and takes
its name checkpoint-N by one rename. What bears that name without a manifest that verifies is damaged.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from recipe.errors import UserError
from recipe.zero import ranks_of

MANIFEST = "manifest.json"
STAGING = "_staging"  # the underscore keeps it out of pushes to the hub
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def checkpoints(run: Path) -> list[Path]:
    """The folders called checkpoint-N of a run, by step, whole or not."""
    return sorted((path for path in run.glob("checkpoint-*") if path.is_dir() and step_of(path) >= 0), key=step_of)


def sha256_of(file: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_of(files: dict[str, Path]) -> str:
    """The manifest of a folder that is to hold `files`, by their names there: sizes and sha256 as JSON."""
    described = {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in files.items()}
    return json.dumps({"files": described}, indent=2) + "\n"


def commit(staged: Path, final: Path) -> None:
    """Makes the finished folder `staged` the checkpoint `final`: manifest, flush to disk, rename."""
    files = {
        path.relative_to(staged).as_posix(): path
        for path in sorted(staged.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = staged / MANIFEST
    manifest.write_text(manifest_of(files))
    for path in files.values():
        _flush(path)
    _flush(manifest)
    _flush(staged)
    if final.exists():  # damaged, or this very step saved before
        doomed = staged.with_name(f"old-{final.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        final.replace(doomed)
        staged.replace(final)
        shutil.rmtree(doomed)
    else:
        staged.replace(final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words that name the file; None for a whole one."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
        if sha256_of(path) != expected["sha256"]:
            return f"{name} has other content than its manifest says"
    return None


def require_training_state(folder: Path, zero: bool) -> None:
    """Raises UserError where a whole checkpoint can't continue a run: without optimizer and scheduler, or where it was
    saved with DeepSpeed and is resumed without, or the reverse. `zero` says that DeepSpeed is in use now."""
    saved_by_zero = ranks_of(folder) > 0
    if zero and not saved_by_zero:
        raise UserError(f"{folder} was saved without DeepSpeed, now it is on: set DS_CONFIG= (no --deepspeed)")
    if saved_by_zero and not zero:
        raise UserError(f"{folder} was saved with DeepSpeed, now it is off: set DS_CONFIG (--deepspeed) as before")
    missing = [name for name in ("optimizer.pt", "scheduler.pt") if not zero and not (folder / name).exists()]
    if missing:
        raise UserError(f"{folder} has no {' and no '.join(missing)}: it can be evaluated, not continued")


def newest_whole(run: Path, warn=print) -> Path | None:
    """The newest checkpoint of `run` that verifies; says through `warn` what was wrong with each newer one."""
    for folder in reversed(checkpoints(run)):
        reason = damage(folder)
        if reason is None:
            return folder
        warn(f"warning: {folder} is damaged ({reason}): using the one before")
    return None


def rotate(run: Path, limit: int | None, newest: Path, to_keep: Collection[int] = ()) -> None:
    """Keeps `newest`, which was just committed, and the whole checkpoints before it up to `limit` in all; those of the
    steps `to_keep` stay, too, and don't count; `newest` always does.

    What bears a manifest counts as whole. Folders without one go first, and whatever has a higher step than `newest`
    is what a run that was set back left behind: it goes, too. A deletion that is cut short leaves a folder without a
    manifest, which is no checkpoint.
    """
    if not limit or limit < 0:
        return
    others = [folder for folder in checkpoints(run) if folder.resolve() != newest.resolve()]
    before = [f for f in others if (f / MANIFEST).exists() and step_of(f) < step_of(newest)]
    passing = [folder for folder in before if step_of(folder) not in to_keep]
    kept = {folder for folder in before if folder not in passing} | set(passing[-(limit - 1) :] if limit > 1 else ())
    for folder in others:
        if folder not in kept:
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)


def require_room(run: Path, needed: int = 0) -> None:
    """Raises UserError where the folder `run` could not be written to, or has fewer than `needed` bytes free for it.
    Writes nothing: it asks the nearest folder that exists."""
    existing = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to {run}: {existing} is no folder we may write to: choose another OUTPUT_DIR")
    if (free := shutil.disk_usage(existing).free) < needed:
        raise UserError(
            f"{run} has {free / 1e9:.1f} GB free, one checkpoint takes {needed / 1e9:.1f} GB: make room or choose "
            "another OUTPUT_DIR"
        )
