"""Checkpoints that are whole or not there: staged, hashed, then renamed.

A checkpoint is written to a staging folder, gets manifest.json (every file with its size and sha256) last, and takes
its name checkpoint-N by one rename. What bears that name without a manifest that verifies is damaged.
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
STAGING = "_staging"  # the underscore keeps it out of pushes to the hub
# What a run writes into its folder beside checkpoints and the model: nothing else may bear these names.
OWN_FILES = ("run.json", "log.jsonl", "all_results.json", "train_results.json", "eval_results.json", STATE, ".lock")
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def checkpoints(run: Path) -> list[Path]:
    """The folders called checkpoint-N of a run, by step, whole or not."""
    return sorted((path for path in run.glob("checkpoint-*") if path.is_dir() and step_of(path) >= 0), key=step_of)


def commit(staged: Path, final: Path, ranks: int = 1) -> None:
    """Makes the finished folder `staged` the checkpoint `final`: manifest, flush to disk, rename. What bears that name,
    a damaged checkpoint, this very step saved before, a stray file or link, goes."""
    files = {
        path.relative_to(staged).as_posix(): path
        for path in sorted(staged.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (staged / MANIFEST).write_text(manifest_of(files, ranks))
    doomed = staged.with_name(f"old-{final.name}")
    remove(doomed)
    if os.path.lexists(final):
        final.replace(doomed)
    publish_folder(staged, final)
    remove(doomed)


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
    others = [folder for folder in checkpoints(run) if folder.name != newest.name]
    before = [f for f in others if (f / MANIFEST).exists() and step_of(f) < step_of(newest)]
    passing = [folder for folder in before if step_of(folder) not in to_keep]
    kept = {folder for folder in before if folder not in passing} | set(passing[-(limit - 1) :] if limit > 1 else ())
    for folder in others:
        if folder not in kept:
            if not folder.is_symlink():
                (folder / MANIFEST).unlink(missing_ok=True)
            remove(folder)


def require_disk_space(run: Path, needed: int = 0) -> None:
    """Raises UserError where the folder `run` could not be written to, or has fewer than `needed` bytes free for it.
    Writes nothing: it asks the nearest folder that exists."""
    existing = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to {run}: {existing} is no folder we may write to: choose another OUTPUT_DIR")
    for name in OWN_FILES:
        if os.path.lexists(run / name) and not (run / name).is_file():
            raise UserError(f"found {run / name}, which is no file: move it away, or choose another OUTPUT_DIR")
    if (free := shutil.disk_usage(existing).free) < needed:
        raise UserError(
            f"{run} has {free / 1e9:.1f} GB free, one checkpoint takes {needed / 1e9:.1f} GB: make room or choose "
            "another OUTPUT_DIR"
        )
