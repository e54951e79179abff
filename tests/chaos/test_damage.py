"""R7 and R8: damaged checkpoints and full disks."""

import os
import shutil
import subprocess

import pytest
from harness import state_of

from recipe.model.checkpoints import checkpoints
from recipe.system.manifest import MANIFEST, damage

pytestmark = pytest.mark.chaos


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


DAMAGES = {
    "weights cut": lambda f: cut(f / "model.safetensors"),
    "weights flipped": lambda f: flip(f / "model.safetensors"),
    "weights missing": lambda f: (f / "model.safetensors").unlink(),
    "optimizer cut": lambda f: cut(f / "optimizer.pt"),
    "optimizer flipped": lambda f: flip(f / "optimizer.pt"),
    "scheduler missing": lambda f: (f / "scheduler.pt").unlink(),
    "generator missing": lambda f: (f / "rng_state.pth").unlink(),
    "trainer state flipped": lambda f: flip(f / "trainer_state.json"),
    "manifest missing": lambda f: (f / MANIFEST).unlink(),
    "emptied": lambda f: [file.unlink() for file in f.iterdir()],
}


def test_r7_damaged_newest_checkpoint(bench, record):
    assert bench.finish("base") == 0
    expected, sound = state_of(bench.folder / "base"), 0
    for kind, harm in DAMAGES.items():
        run = bench.folder / "damaged"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(bench.folder / "base", run)
        (bench.folder / "damaged.log").unlink(missing_ok=True)
        shutil.rmtree(run / "checkpoint-40")
        (run / "checkpoint-stray").mkdir()
        (run / "checkpoint-99").mkdir()
        harm(run / "checkpoint-35")
        assert bench.finish("damaged") == 0, kind
        warnings = [line for line in (bench.folder / "damaged.log").read_text().splitlines() if "is damaged" in line]
        # One for the empty checkpoint-99, one for the damage; then the run resumes from checkpoint-30.
        assert len(warnings) == 2 and "checkpoint-35 is damaged (" in warnings[1], (kind, warnings)
        shutil.rmtree(run / "checkpoint-99")
        sound += state_of(run) == expected
    record(
        "R7",
        f"{len(DAMAGES)} kinds of damage to the newest checkpoint, next to stray folders",
        f"{sound}/{len(DAMAGES)} same bits, one warning names the file",
    )
    assert sound == len(DAMAGES)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_r8_disk_full(bench, record):
    assert bench.finish("base") == 0
    expected, sound, points = state_of(bench.folder / "base"), 0, 6
    size = sum(f.stat().st_size for f in (bench.folder / "base" / "checkpoint-5").iterdir())
    for number in range(points):
        disk = bench.folder / f"disk{number}"
        disk.mkdir()
        kilobytes = int(size * (2.35 + number * 0.18) / 1024)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)])
        if mounted.returncode:
            pytest.skip("mount is not allowed here")
        try:
            log = bench.folder / f"full{number}.log"
            code = bench.finish(f"full{number}", output_dir=disk / "run")
            lines = [line for line in log.read_text().splitlines() if line.startswith("error:")]
            assert code == 2 and len(lines) == 1, (code, log.read_text()[-2000:])
            assert "no space left to save" in lines[0] and "checkpoint-" in lines[0] and "bytes" in lines[0]
            found = checkpoints(disk / "run")
            assert found and all(damage(folder) is None for folder in found)
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            assert bench.finish(f"full{number}", output_dir=disk / "run") == 0
            sound += state_of(disk / "run") == expected
        finally:
            subprocess.run(["umount", str(disk)])
    record(
        "R8",
        f"disk full at {points} points of a save (tmpfs), then space freed",
        f"{sound}/{points} one-line error, earlier checkpoints whole, same bits",
    )
    assert sound == points
