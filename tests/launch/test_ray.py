"""launch/ray.sh on a real Ray cluster of two nodes on loopback: a submitted run, a killed worker, a sweep."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import toy
from glue_toys import toy_run, write_glue
from qa_toys import write_squad
from toy import REPOSITORY, config_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'ray[train,default]'"),
]
SETTINGS = {
    "RECIPE": "demo", "VOCAB_SIZE": "300", "SEQ_LENGTH": "64", "GLOBAL_BATCH_SIZE": "32", "MICRO_BATCH_SIZE": "16",
    "MAX_STEPS": "300", "SAVE_STEPS": "50", "EVAL_STEPS": "100", "LOGGING_STEPS": "10", "EVAL_BLOCKS": "16",
}  # fmt: skip


class Cluster:
    """Two nodes with one CPU each, with their own token and home folder."""

    def __init__(self, folder: Path):
        self.home = Path(tempfile.mkdtemp(prefix="ray"))  # the path of a socket has at most 107 characters
        (self.home / "token").write_text(secrets.token_hex(32))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WANDB_"))}
        self.environment |= {
            "HOME": str(self.home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.home / "token"),
            "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        head, dashboard = free_ports(2)
        self.address, self.dashboard = f"127.0.0.1:{head}", f"http://127.0.0.1:{dashboard}"
        self.log = (folder / "cluster.log").open("w")
        common = ("--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--num-gpus", "0", "--block")
        self.nodes = [
            self.node(
                "--head",
                "--port",
                str(head),
                "--dashboard-port",
                str(dashboard),
                "--temp-dir",
                str(self.home / "r"),
                *common,
            )
        ]
        until(lambda: answers(dashboard), seconds=60)
        self.nodes.append(self.node("--address", self.address, *common))

    def node(self, *flags) -> subprocess.Popen:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags]
        return subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=self.log, stderr=self.log)

    def stop(self):
        processes = [child for node in self.nodes for child in psutil.Process(node.pid).children(recursive=True)]
        for node in reversed(self.nodes):
            node.terminate()
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def launch(self, *command, cwd=REPOSITORY, **exports) -> subprocess.Popen:
        exports = {"RAY_ADDRESS": self.dashboard, "WANDB_API_KEY": "a" * 40} | exports
        return subprocess.Popen(
            ["bash", "launch/ray.sh", *command], env=self.environment | exports, cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        """The worker processes of Ray Train."""
        found = [child for node in self.nodes for child in psutil.Process(node.pid).children(recursive=True)]
        return [process for process in found if "ray::RayTrainWorker" in " ".join(command_of(process))]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return [(one.getsockname()[1], one.close())[0] for one in held]


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


until = partial(toy.until, seconds=400, pause=0.2)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").open()] if (run / "log.jsonl").exists() else []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("ray"))
    yield cluster
    cluster.stop()


@pytest.fixture
def toys(tmp_path, text_file):
    config = tmp_path / "roberta.json"
    config.write_text(json.dumps(config_settings("roberta", hidden_size=64, num_hidden_layers=4)))
    return SETTINGS | {"MODEL": str(config), "DATASET": str(text_file), "PREPARED_DIR": str(tmp_path / "data")}


def test_a_submitted_run_whose_worker_is_killed_is_bit_identical(cluster, toys, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    exports = toys | {"OUTPUT_DIR": str(whole), "NPROC_PER_NODE": "2"}
    command = ["bash", "pretrain.sh", "--use_cpu", "true"]  # one host, no Ray; also prepares the tokens
    subprocess.run(command, env=cluster.environment | exports, cwd=REPOSITORY, check=True, timeout=280)
    home = a_checkout(tmp_path / "checkout")
    job = cluster.launch("pretrain.sh", "--use_cpu", "true", cwd=home, **toys, OUTPUT_DIR=str(run), NUM_WORKERS="2")
    until(lambda: len(log_of(run)) > 8)
    workers = cluster.workers()
    ranks = [child for worker in workers for child in worker.children(recursive=True)]
    assert len(workers) == 2 and len(ranks) >= 4  # a launcher and its rank each
    workers[0].send_signal(signal.SIGKILL)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-5000:]
    starts = {
        line for line in output.splitlines() if "steps      300" in line
    }  # both nodes write to one log folder: lines appear twice
    assert len(starts) == 2, starts  # each with its process id
    assert not [rank for rank in ranks if rank.is_running()]
    saved = "checkpoint-300/model.safetensors", "checkpoint-300/optimizer.pt", "model.safetensors"
    assert [(run / name).read_bytes() == (whole / name).read_bytes() for name in saved] == [True] * 3
    curves = [
        [(line["step"], line.get("loss"), line.get("eval_loss")) for line in log_of(folder)] for folder in (whole, run)
    ]
    assert curves[0] == curves[1]
    check_uploaded_files(cluster)
    assert "WANDB_API_KEY" not in output and "a" * 40 not in (run / "run.json").read_text()


def a_checkout(folder: Path) -> Path:
    """The repository's files plus a user's data, checkpoints and secrets, without a .gitignore."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout.decode()  # fmt: skip
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / ".gitignore").unlink()
    for name in ("data/x/train.npy", "runs/a/model.safetensors", "wandb/log", ".env", "deploy.pem", "gcp-credentials.json",
                 "out/checkpoint-5/config.json", ".git/config"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not uploaded")
    (folder / "configs" / "mine.json").write_text("{}")
    return folder


def check_uploaded_files(cluster) -> None:
    copies = [
        path.parent for path in cluster.home.glob("r/session_*/runtime_resources/working_dir_files/*/pretrain.sh")
    ]
    assert copies
    for copy in copies:
        assert (copy / "configs" / "mine.json").exists() and (copy / "recipe" / "data" / "tokenizer.py").exists()
        assert not [path for path in copy.rglob("*") if path.is_file() and path.read_bytes() == b"not uploaded"]


def test_an_unreachable_address_is_refused(cluster):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never answers
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for exports in ({"RAY_ADDRESS": address}, {"RAY_ADDRESS": f"http://{address}"}, {"RAY_ADDRESS": "127.0.0.1:1"}):
            program = [sys.executable, "-m", "recipe.launch.ray_train", "pretrain.sh"]
            environment = cluster.environment | exports | {"OUTPUT_DIR": "/mnt/run"}
            done = subprocess.run(program, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2 and done.stderr.startswith("error: no Ray answers at RAY_ADDRESS="), done.stderr


def test_exit_codes_are_returned(cluster, toys, tmp_path):
    job = cluster.launch("pretrain.sh", "--mlm_probability", "2", **toys, OUTPUT_DIR=str(tmp_path / "run"))
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 2 and "expected between 0 and 1" in output
    assert len({line for line in output.splitlines() if "found --mlm_probability" in line}) == 1  # not retried


def test_a_glue_sweep_runs_on_the_cluster(cluster, tmp_path):
    run = toy_run(tmp_path / "run")
    exports = {"RUN": str(run), "GLUE_DATA": str(write_glue(tmp_path / "glue")), "TASKS": "cola rte", "SEEDS": "1"}
    flags = ("--max_steps", "4", "--max_seq_length", "32")
    job = cluster.launch("finetune_glue.sh", *flags, **exports, REPORT_TO="none")
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output[-4000:]
    results = run / "glue" / "jobs"
    assert len(list(results.rglob("*-seed?.json"))) == 4 and not list(results.rglob("*.error.txt"))
    by_hand = [
        sys.executable,
        "-m",
        "recipe.sweep",
        "--runs",
        str(run),
        "--tasks",
        "cola",
        "rte",
        "--seeds",
        "1",
        *flags,
    ]
    by_hand += ["--glue_data", exports["GLUE_DATA"], "--report_to", "none", "--results_dir", str(tmp_path / "again")]
    subprocess.run(by_hand, env=cluster.environment, cwd=REPOSITORY, check=True, timeout=280, stdout=subprocess.DEVNULL)
    values = [score_of(results), score_of(tmp_path / "again" / "jobs")]
    assert values[0] == values[1]


def test_a_squad_sweep_runs_on_the_cluster(cluster, tmp_path):
    run = toy_run(tmp_path / "run")
    exports = {"RUN": str(run), "SQUAD_DATA": str(write_squad(tmp_path / "squad")), "SEQ_LENGTH": "32"}
    job = cluster.launch("finetune_qa.sh", "--max_steps", "3", **exports, DOC_STRIDE="8", REPORT_TO="none")
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output[-4000:]
    assert len(list((run / "qa" / "jobs").rglob("*-seed?.json"))) == 2  # the newest checkpoint and random weights


def score_of(folder: Path) -> dict:
    records = {path.relative_to(folder): json.loads(path.read_text()) for path in folder.rglob("*-seed?.json")}
    return {name: record["headline"]["value"] for name, record in records.items()}
