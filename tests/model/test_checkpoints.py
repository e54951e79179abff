"""Invariant 7: checkpoints are written atomically, verified by their manifests, and rotation never deletes the last one."""

import json
import subprocess
import sys

import pytest
from toy import REPOSITORY

from recipe.model.checkpoints import checkpoints, commit, newest_complete, require_disk_space, rotate, step_of
from recipe.system.errors import UserError
from recipe.system.manifest import MANIFEST, damage
from recipe.train.run_folder import run_lock


def make(run, step, content="weights"):
    staged = run / "_staging" / f"checkpoint-{step}"
    (staged / "global_step").mkdir(parents=True)
    (staged / "model.safetensors").write_text(f"{content} {step}" * 100)
    (staged / "global_step" / "rank_0.pt").write_text("optimizer")
    commit(staged, run / f"checkpoint-{step}")
    return run / f"checkpoint-{step}"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = {
    "cut": lambda folder: cut(folder / "model.safetensors"),
    "flipped": lambda folder: flip(folder / "model.safetensors"),
    "flipped in a subfolder": lambda folder: flip(folder / "global_step" / "rank_0.pt"),
    "missing": lambda folder: (folder / "model.safetensors").unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: (folder / MANIFEST).write_text('{"files": {'),
    "another manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_one_warning(tmp_path, kind):
    good, newest = make(tmp_path, 5), make(tmp_path, 10)
    assert newest_complete(tmp_path) == newest and damage(newest) is None
    DAMAGES[kind](newest)
    warnings = []
    assert newest_complete(tmp_path, warn=warnings.append) == good
    (warning,) = warnings
    assert "checkpoint-10 is damaged" in warning
    assert any(name in warning for name in ("model.safetensors", "rank_0.pt", MANIFEST))


def test_empty_and_stray_folders_are_not_checkpoints(tmp_path):
    good = make(tmp_path, 5)
    for name in ("checkpoint-99", "checkpoint-final", "checkpoint-7.bak", "old-checkpoint-8"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-100").write_text("a file")
    assert newest_complete(tmp_path, warn=lambda _: None) == good
    assert [step_of(folder) for folder in checkpoints(tmp_path)] == [5, 99]


def test_a_run_without_checkpoints_has_no_newest_one(tmp_path):
    assert newest_complete(tmp_path) is None


def test_files_added_later_are_not_damage(tmp_path):
    folder = make(tmp_path, 5)
    (folder / "README.md").write_text("a model card")
    assert damage(folder) is None


def test_a_step_saved_again_replaces_the_earlier_checkpoint(tmp_path):
    make(tmp_path, 5, "old")
    folder = make(tmp_path, 5, "new")
    assert damage(folder) is None and "new" in (folder / "model.safetensors").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_staging", "checkpoint-5"]


def test_the_manifest_lists_every_file(tmp_path):
    files = json.loads((make(tmp_path, 5) / MANIFEST).read_text())["files"]
    assert set(files) == {"model.safetensors", "global_step/rank_0.pt"}


def test_the_manifest_records_the_number_of_ranks(tmp_path):
    (tmp_path / "staged").mkdir()
    commit(tmp_path / "staged", tmp_path / "checkpoint-1", ranks=3)
    assert json.loads((tmp_path / "checkpoint-1" / MANIFEST).read_text())["ranks"] == 3


@pytest.mark.parametrize(("limit", "left"), [(None, [1, 2, 3]), (2, [2, 3]), (1, [3])])
def test_rotation_keeps_the_newest(tmp_path, limit, left):
    for step in (1, 2, 3):
        make(tmp_path, step)
    rotate(tmp_path, limit, newest=tmp_path / "checkpoint-3")
    assert [step_of(folder) for folder in checkpoints(tmp_path)] == left


def test_rotation_keeps_the_listed_steps_and_does_not_count_them(tmp_path):
    for step in range(1, 7):
        make(tmp_path, step)
        rotate(tmp_path, 2, newest=tmp_path / f"checkpoint-{step}", to_keep=[1, 2, 4, 8])
    assert [step_of(folder) for folder in checkpoints(tmp_path)] == [1, 2, 4, 5, 6]


def test_rotation_never_deletes_the_checkpoint_just_saved(tmp_path):
    """The newest checkpoint was damaged, the run resumed from the one before, and saves with a limit of one."""
    make(tmp_path, 500)
    damaged = make(tmp_path, 1000)
    flip(damaged / "model.safetensors")
    saved = make(tmp_path, 612)
    rotate(tmp_path, 1, newest=saved)
    assert newest_complete(tmp_path) == saved and checkpoints(tmp_path) == [saved]


def test_a_second_training_in_a_folder_is_refused_until_the_first_has_died(tmp_path):
    holder = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from recipe.train.run_folder import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    repository = str(REPOSITORY)
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path), repository], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another run is training in"), run_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    (tmp_path / "_staging").mkdir()
    with run_lock(tmp_path):
        assert not (tmp_path / "_staging").exists()


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"), run_lock(tmp_path / "file" / "run"):
        pass


def test_disk_space_is_checked_before_anything_is_written(tmp_path):
    require_disk_space(tmp_path / "a" / "run", needed=1)
    with pytest.raises(UserError, match=r"GB free, one checkpoint takes 1000000000.0 GB"):
        require_disk_space(tmp_path / "a" / "run", needed=10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a writable folder"):
        require_disk_space(tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
