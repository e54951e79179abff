"""Atomic checkpoints: written to a staging folder, hashed, then renamed.

manifest.json, with the size and sha256 of every file, is written last; one rename then gives the folder its name
checkpoint-N. A folder of that name whose manifest is missing or doesn't verify is damaged.
"""

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from recipe.system.errors import UserError
from recipe.system.files import publish_folder, remove
from recipe.system.manifest import MANIFEST, damage, manifest_of

STATE = "trainer_state.json"
STAGING = "_staging"  # the underscore excludes it from pushes to the hub
# Files of a run beside checkpoints and the model. These names must not belong to folders.
RUN_FILES = ("run.json", "log.jsonl", "all_results.json", "train_results.json", "eval_results.json", STATE, ".lock")
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for any other name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def checkpoints(run: Path) -> list[Path]:
    """All checkpoint-N folders of a run by step, damaged ones included."""
    return sorted((path for path in run.glob("checkpoint-*") if path.is_dir() and step_of(path) >= 0), key=step_of)


def commit(staged: Path, final: Path, ranks: int = 1) -> None:
    """Makes the finished folder `staged` the checkpoint `final`: writes the manifest, syncs to disk, renames.

    Anything that has the name already is deleted: a damaged checkpoint, an earlier save of the step, a file or a link.
    """
    files = {
        path.relative_to(staged).as_posix(): path
        for path in sorted(staged.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (staged / MANIFEST).write_text(manifest_of(files, ranks))
    replaced = staged.with_name(f"old-{final.name}")
    remove(replaced)
    if os.path.lexists(final):
        final.replace(replaced)
    publish_folder(staged, final)
    remove(replaced)


def newest_complete(run: Path, warn=print) -> Path | None:
    """The newest checkpoint of `run` that verifies; reports the damage of newer ones through `warn`."""
    for folder in reversed(checkpoints(run)):
        reason = damage(folder)
        if reason is None:
            return folder
        warn(f"warning: {folder} is damaged ({reason}): using the one before")
    return None


def rotate(run: Path, limit: int | None, newest: Path, to_keep: Collection[int] = ()) -> None:
    """Deletes checkpoints so that `limit` remain: `newest`, which was just committed, and those before it. Checkpoints
    at the steps `to_keep` stay and don't count, except for `newest`.

    Folders without a manifest are deleted, as are those of later steps than `newest`, left by a run that resumed from
    an earlier checkpoint. The manifest is deleted first, so that an interrupted deletion leaves no valid checkpoint.
    """
    if not limit or limit < 0:
        return
    others = [folder for folder in checkpoints(run) if folder.name != newest.name]
    before = [f for f in others if (f / MANIFEST).exists() and step_of(f) < step_of(newest)]
    rotating = [folder for folder in before if step_of(folder) not in to_keep]
    kept = {folder for folder in before if folder not in rotating} | set(rotating[-(limit - 1) :] if limit > 1 else ())
    for folder in others:
        if folder not in kept:
            if not folder.is_symlink():
                (folder / MANIFEST).unlink(missing_ok=True)
            remove(folder)


def require_disk_space(run: Path, needed: int = 0) -> None:
    """Raises UserError where the folder `run` isn't writable or has fewer than `needed` bytes free. Writes nothing: it
    checks the nearest folder that exists."""
    existing = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f"cannot write to {run}: {existing} is not a writable folder: choose another RUN_NAME or OUTPUT_DIR"
        )
    for name in RUN_FILES:
        if os.path.lexists(run / name) and not (run / name).is_file():
            raise UserError(
                f"found {run / name}, which is not a file: move it away or choose another RUN_NAME or OUTPUT_DIR"
            )
    if (free := shutil.disk_usage(existing).free) < needed:
        raise UserError(
            f"{run} has {free / 1e9:.1f} GB free, one checkpoint takes {needed / 1e9:.1f} GB: free some space or "
            "choose another RUN_NAME or OUTPUT_DIR"
        )
