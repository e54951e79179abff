"""R1 to R6, R9 and R16: a run that is killed, signalled or started twice ends bit-identical to an undisturbed one."""

import os
import shutil
import signal
import time
from collections import Counter

import pytest
from harness import alive, curve_of, kill_after, moments, state_of, wait

from recipe.model.checkpoints import checkpoints, step_of
from recipe.system.manifest import damage

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]  # fifty killed runs take minutes on a busy machine
KILLS = int(os.environ.get("KILLS", "50"))


@pytest.fixture(scope="module")
def whole(bench):
    """An uninterrupted run, timed. The other runs use its prepared tokens."""
    assert bench.finish("prepare") == 0
    began = time.monotonic()
    pid = bench.start("whole")
    while bench.now() == "set-up":
        time.sleep(0.005)
    set_up = time.monotonic() - began
    assert wait(pid) == 0
    # Set-up is half of such a short run; most kills should come after it.
    return {"from": 0.8 * set_up, "seconds": time.monotonic() - began, "state": state_of(bench.folder / "whole")}


def test_r1_the_same_command_twice(bench, whole, record):
    assert bench.finish("again") == 0
    equal = state_of(bench.folder / "again") == whole["state"]
    record("R1", "the same command twice", "weights and optimizer equal" if equal else "DIFFERENT")
    assert equal


def test_r2_r4_r5_killed_at_random_moments(bench, whole, record):
    phases, redone, equal, curves_equal = Counter(), [], 0, 0
    for number, moment in enumerate(moments(4 * KILLS, whole, seed=2)):
        if sum(phases.values()) == KILLS:
            break
        run = bench.folder / "killed"
        shutil.rmtree(run, ignore_errors=True)
        pid = bench.start("killed")
        killed = kill_after(pid, moment)
        wait(pid)
        if not killed:  # the run had ended
            continue
        phases[bench.now()] += 1
        reached = max((step for step, _, _ in curve_of(run)), default=0) if (run / "log.jsonl").exists() else 0
        saved = max((step_of(folder) for folder in checkpoints(run) if damage(folder) is None), default=0)
        redone.append(max(0, reached - saved))
        assert bench.finish("killed") == 0, (number, moment)
        equal += state_of(run) == whole["state"]
        curves_equal += curve_of(run) == curve_of(bench.folder / "whole")
    where = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
    record("R2", f"kill -9 at {KILLS} random moments ({where}), the same command again", f"{equal}/{KILLS} same bits")
    record(
        "R4",
        "log.jsonl of each of these runs compared with the uninterrupted one",
        f"{curves_equal}/{KILLS} equal, line by line",
    )
    record("R5", "steps repeated after a kill, save_steps 5", f"at most {max(redone)}")
    assert sum(phases.values()) == equal == curves_equal == KILLS and max(redone) <= 5


@pytest.mark.parametrize("workers", [0, 2])
def test_r3_resumed_from_every_checkpoint(bench, whole, record, workers):
    equal = 0
    steps = [5, 10, 15, 20, 25, 30, 35]
    for step in steps:
        run = bench.folder / "from"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(bench.folder / "whole", run)
        for folder in checkpoints(run):
            if step_of(folder) > step:
                shutil.rmtree(folder)
        assert bench.finish("from", dataloader_num_workers=workers) == 0
        equal += state_of(run) == whole["state"]
    record(
        f"R3 ({workers} workers)",
        "resumed from each checkpoint, across epochs, with accumulation",
        f"{equal}/{len(steps)} same bits",
    )
    assert equal == len(steps)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_r6_stop_signals(bench, whole, record, name):
    codes, phases, equal, whole_saves, count = Counter(), Counter(), 0, 0, 10
    for moment in moments(4 * count, whole, seed=6):
        if sum(phases.values()) == count:
            break
        run = bench.folder / "stopped"
        shutil.rmtree(run, ignore_errors=True)
        pid = bench.start("stopped")
        # Before step 1 there is nothing to save and the signal kills the run. Later it saves and exits with 75.
        if not kill_after(pid, moment, getattr(signal, name)):  # the run was over
            wait(pid)
            continue
        phase = bench.now()
        phases[phase] += 1
        time.sleep(0.02)
        kill_after(pid, 0, getattr(signal, name))  # twice
        code = wait(pid)
        codes[code] += 1
        if phase not in ("set-up", "end"):
            # In a step, in accumulation, in evaluation or in a save alike; 0 if the last step was done already.
            assert code in (75, 0), (phase, code)
        whole_saves += all(damage(folder) is None for folder in checkpoints(run))
        while code != 0:
            code = bench.finish("stopped")
        equal += state_of(run) == whole["state"]
    shown = ", ".join(f"{code}: {n}" for code, n in sorted(codes.items()))
    where = ", ".join(f"{phase} {n}" for phase, n in phases.most_common())
    record(
        f"R6 ({name})",
        f"{name} twice at {count} random moments ({where}); exit codes {shown}",
        f"{equal}/{count} same bits",
    )
    assert sum(phases.values()) == equal == whole_saves == count and set(codes) <= {0, 75, -getattr(signal, name)}


def test_r9_killed_while_rotating(bench, whole, record):
    worst, count = 99, 10
    for number in range(count):
        run = bench.folder / "rotated"
        shutil.rmtree(run, ignore_errors=True)
        pid = bench.start("rotated", save_steps=1, save_total_limit=1, logging_steps=1)
        while alive(pid) and not (run / f"checkpoint-{2 + 3 * number}").exists():
            time.sleep(0.0005)
        while bench.now() != "saving" and alive(pid):
            time.sleep(0.0005)
        kill_after(pid, 0.0015 * number)  # a save takes about 15 ms
        wait(pid)
        sound = [folder for folder in checkpoints(run) if damage(folder) is None]
        worst = min(worst, len(sound))
    record(
        "R9",
        f"killed {count} times around a save with save_total_limit 1",
        f"at least {worst} complete checkpoint at all times",
    )
    assert worst >= 1


def test_r16_two_at_once(bench, whole, record):
    pid = bench.start("first", max_steps=400)
    while bench.now() == "set-up":
        time.sleep(0.01)
    code = bench.finish("first")
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    log = (bench.folder / "first.log").read_text()
    refused = code == 2 and "another run is training in" in log
    after = bench.finish("first", max_steps=400)
    record(
        "R16",
        "a second run in the same folder, then the first killed and started again",
        f"refused with one line: {refused}; then exit code {after}",
    )
    assert refused and after == 0
