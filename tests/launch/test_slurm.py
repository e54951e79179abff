"""launch/slurm.sh on a real SLURM cluster of two nodes on loopback (tests/launch/slurm/cluster.sh), preempted and cancelled."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial

import pytest
import toy
from glue_toys import toy_run, write_glue
from toy import REPOSITORY, config_settings

MISSING = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path=f"{os.defpath}:/usr/sbin")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of a test cluster need root"),
]
SETTINGS = {
    "RECIPE": "demo", "VOCAB_SIZE": "300", "SEQ_LENGTH": "64", "GLOBAL_BATCH_SIZE": "32", "MICRO_BATCH_SIZE": "16",
    "MAX_STEPS": "300", "SAVE_STEPS": "100", "EVAL_STEPS": "100", "LOGGING_STEPS": "10", "EVAL_BLOCKS": "16",
}  # fmt: skip


class Cluster:
    def __init__(self, folder):
        self.script = str(REPOSITORY / "tests" / "launch" / "slurm" / "cluster.sh")
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHON": sys.executable}
        self.environment |= {"OMP_NUM_THREADS": "1", "LOGS": str(folder / "logs")}
        subprocess.run(["bash", self.script, "start", str(folder)], check=True, timeout=120)

    def stop(self):
        subprocess.run(["bash", self.script, "stop", str(self.folder)], check=True, timeout=120)

    def call(self, *command, **exports) -> str:
        done = subprocess.run(
            command, env=self.environment | exports, cwd=REPOSITORY, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def launch(self, *command, **exports) -> str:
        """Submits a job; returns its number."""
        return self.call("bash", "launch/slurm.sh", *command, **exports).split()[-1]

    def preempt(self, seconds: int) -> None:
        """Runs an urgent job that occupies both nodes for `seconds`."""
        wrap = ("--wrap", f"sleep {seconds}")
        self.call(
            "sbatch", "--partition", "urgent", "--nodes", "2", "--cpus-per-task", "2", "--output", "/dev/null", *wrap
        )

    def state(self, job: str) -> str:
        words = self.call("scontrol", "show", "job", job, "--oneliner").split()
        return next(word.removeprefix("JobState=") for word in words if word.startswith("JobState="))

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


until = partial(toy.until, seconds=150, pause=0.5)


def lines_of(run):
    return (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").exists() else []


@pytest.fixture
def toys(tmp_path, text_file):
    config = tmp_path / "roberta.json"
    config.write_text(json.dumps(config_settings("roberta", hidden_size=64, num_hidden_layers=4)))
    exports = SETTINGS | {"MODEL": str(config), "DATASET": str(text_file), "PREPARED_DIR": str(tmp_path / "data")}
    return exports, ("pretrain.sh", "--use_cpu", "true")


def test_a_run_preempted_on_two_nodes_is_requeued_and_bit_identical(cluster, toys, tmp_path):
    exports, command = toys
    whole, run = tmp_path / "whole", tmp_path / "run"
    cluster.call("bash", *command, **exports, OUTPUT_DIR=str(whole), NPROC_PER_NODE="2")  # one host, no SLURM
    job = cluster.launch(*command, **exports, OUTPUT_DIR=str(run), NODES="2")
    until(lambda: len(lines_of(run)) >= 4)
    cluster.preempt(seconds=3)
    until(lambda: cluster.state(job) == "COMPLETED")
    log = cluster.log(f"{job}.log")
    assert "ended with 75 (restarts so far: 0)" in log and "ended with 0 (restarts so far: 1)" in log
    assert "stopped by SIGTERM" in cluster.log(f"{job}-node0.log")
    assert len(list((cluster.folder / "logs" / f"{job}-node1").rglob("stdout.log"))) == 2  # one rank, started twice
    saved = "checkpoint-300/model.safetensors", "checkpoint-300/optimizer.pt", "model.safetensors"
    assert [(run / name).read_bytes() == (whole / name).read_bytes() for name in saved] == [True] * 3
    losses = [[line["loss"] for line in map(json.loads, lines_of(folder)) if "loss" in line] for folder in (whole, run)]
    # A checkpoint keeps the mean over ranks of the loss since the last log, which rounds it.
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(losses[0]) == 30


def test_a_cancelled_run_saves_and_is_not_requeued(cluster, toys, tmp_path):
    exports, command = toys
    run = tmp_path / "run"
    job = cluster.launch(*command, **exports, OUTPUT_DIR=str(run), NODES="2")
    until(lambda: len(lines_of(run)) >= 3)
    cluster.call("scancel", job)
    until(lambda: cluster.state(job) == "CANCELLED")
    time.sleep(10)  # longer than a requeued job waits
    assert cluster.state(job) == "CANCELLED" and "into the queue" not in cluster.log(f"{job}.log")
    assert len(list(run.glob("checkpoint-*"))) == 1


def test_a_mistake_is_not_retried(cluster, toys):
    exports, command = toys
    job = cluster.launch(*command, "--mlm_probability", "2", **exports, NODES="2")
    until(lambda: cluster.state(job) == "FAILED")
    assert "ended with 2" in cluster.log(f"{job}.log")
    assert "expected between 0 and 1" in cluster.log(f"{job}-node0.log")


def test_array_tasks_share_a_sweep_and_a_preempted_one_is_requeued(cluster, tmp_path):
    run = toy_run(tmp_path / "run")
    exports = {"RUN": str(run), "GLUE_DATA": str(write_glue(tmp_path / "glue")), "TASKS": "cola rte", "SEEDS": "1 2 3"}
    flags = ("--max_steps", "30", "--max_seq_length", "32")
    job = cluster.launch("finetune_glue.sh", *flags, **exports, REPORT_TO="none", ARRAY="2")
    results = run / "glue" / "jobs"
    until(lambda: len(list(results.rglob("*-seed?.json"))) >= 2)
    cluster.preempt(seconds=2)
    until(lambda: cluster.call("squeue", "--noheader") == "", seconds=250)
    logs = [cluster.log(f"{job}_{task}-node0.log") for task in (0, 1)]
    assert [cluster.state(f"{job}_{task}") for task in (0, 1)] == ["COMPLETED"] * 2, logs
    assert len(list(results.rglob("*-seed?.json"))) == 12 and not list(results.rglob("*.error.txt"))
    done = [line.split(": ")[0].split("] ")[1] for text in logs for line in text.splitlines() if " s)" in line]
    assert len(done) == len(set(done)) > 2  # no job twice
    assert all("stopped: what is done stays done" in text for text in logs)
