"""R17 and R18: a sweep that is killed repeatedly, and a sweep during a pre-training that saves checkpoints."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from glue_toys import sweep_here, toy_run, write_glue
from harness import alive, wait
from toy import REPOSITORY

from recipe.finetune.results import read_results
from recipe.model.checkpoints import checkpoints, step_of
from recipe.sweep import sweep
from recipe.system import files
from recipe.system.manifest import MANIFEST

pytestmark = pytest.mark.chaos
KILLS = 20


def flags(run, glue, folder, *more, tasks, seeds):
    return [
        "--runs", str(run), "--tasks", *tasks.split(), "--seeds", *seeds.split(), "--glue_data", str(glue),
        "--prepared_dir", str(folder / "prepared"), "--max_seq_length", "48", "--use_cpu", "true", *more,
    ]  # fmt: skip


def begin(argv):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recipe.sweep", *argv]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results_in(run):
    return list((run / "glue").rglob("*-seed*.json"))


def scores_of(folder):
    return {(r["checkpoint"]["name"], r["task"], r["seed"]): r["metrics"] for r in read_results(folder)}


@pytest.mark.timeout(1500)
def test_r17_killed_twenty_times(tmp_path, record):
    run, glue = toy_run(tmp_path / "toy", steps=(10, 20)), write_glue(tmp_path / "glue", rows=16, dev=8)
    argv = flags(run, glue, tmp_path, "--num_train_epochs", "4", tasks="rte cola mrpc", seeds="1 2 3 4 5 6 7 8")
    moments, contents, lost, changed = random.Random(17), {}, 0, 0
    for number in range(KILLS):
        before, process = len(results_in(run)), begin(argv)
        if number % 4:  # most kills come during jobs, some during the start of the sweep
            while process.poll() is None and len(results_in(run)) == before:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 1.5))
        else:
            time.sleep(moments.uniform(1, 12))
        process.kill()
        process.wait()
        found = {path: path.read_bytes() for path in results_in(run)}
        lost += len(contents.keys() - found.keys())
        changed += sum(found[path] != text for path, text in contents.items() if path in found)
        contents = found
    left = 48 - len(contents)
    assert begin(argv).wait(timeout=900) == 0
    changed += sum(path.read_bytes() != text for path, text in contents.items())
    assert begin([*argv, "--results_dir", str(tmp_path / "whole")]).wait(timeout=900) == 0
    equal = scores_of(run / "glue") == scores_of(tmp_path / "whole") and len(scores_of(run / "glue")) == 48
    record(
        "R17",
        f"a sweep of 48 jobs killed {KILLS} times with kill -9 ({len(contents)} done by then), then run to the end",
        f"{'equals' if equal else 'DIFFERS FROM'} an uninterrupted one; {lost} results lost, {changed} done again",
    )
    assert equal and not lost and not changed and left > 0


@pytest.mark.timeout(600)
def test_r18_a_sweep_during_a_training(bench, record, tmp_path, monkeypatch):
    """Every save of the training takes a good part of a second, and the sweep polls its folder every 10 ms."""
    glue, run, steps = write_glue(tmp_path / "glue", rows=8, dev=8), bench.folder / "live", 24
    polls = Counter()

    def slow_disk():
        flush = files.flush
        files.flush = lambda path: (time.sleep(0.04), flush(path))

    real = sweep.candidates

    def poll(*args):
        polls[bench.now()] += 1
        return real(*args)

    monkeypatch.setattr(sweep, "candidates", poll)
    monkeypatch.setattr(sweep, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr("recipe.report.scores.draw", lambda *_, **__: None)
    argv = flags(run, glue, tmp_path, "--watch", "true", "--num_train_epochs", "1", tasks="rte", seeds="1")
    argv[argv.index("48")] = "30"  # the longest sequence of the live model
    pid = bench.start("live", before=slow_disk, max_steps=steps, save_steps=2, eval_strategy="no")
    while not (run / "run.json").exists():
        assert alive(pid), (bench.folder / "live.log").read_text()
        time.sleep(0.01)
    code, trained = sweep_here(monkeypatch)(argv)[0], wait(pid)
    shown = {r["checkpoint"]["step"]: r["checkpoint"]["sha256"] for r in read_results(run / "glue")}
    saved = {
        step_of(folder): json.loads((folder / MANIFEST).read_text())["files"]["model.safetensors"]["sha256"]
        for folder in checkpoints(run)
    }
    record(
        "R18",
        f"a sweep during a training with {len(saved)} slow saves; {sum(polls.values())} polls of its folder, "
        f"{polls['saving']} of them during a save",
        f"{len(shown)}/{len(saved)} checkpoints scored, each with the hash of its final weights; no partial one was read",
    )
    assert (code, trained) == (0, 0) and shown == saved and len(saved) == steps // 2 and polls["saving"] >= 5
