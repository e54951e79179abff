"""The DRY_RUN of every launcher, and its message where SLURM or Ray is missing."""

import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from toy import REPOSITORY

from recipe.launch import ray_cluster
from recipe.launch.ray_train import forwarded_variables
from recipe.system.errors import UserError


def launch(launcher, *arguments, **exports):
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment |= {"PATH": os.defpath, "PYTHON": sys.executable} | exports
    command = ["bash", str(REPOSITORY / "launch" / launcher), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def flags_of(printed: str) -> dict[str, str]:
    words = shlex.split(printed)
    return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def test_slurm_requests_nodes_an_early_signal_and_requeueing():
    exports = {"DRY_RUN": "1", "NODES": "4", "GPUS_PER_NODE": "8"}
    done = launch("slurm.sh", "pretrain.sh", "--mlm_probability", "0.3 ", **exports)
    assert done.returncode == 0, done.stderr
    flags = flags_of(done.stdout)
    expected = {"--nodes": "4", "--ntasks-per-node": "1", "--gpus-per-node": "8", "--cpus-per-task": "64",
                "--signal": "TERM@300", "--chdir": str(REPOSITORY), "--open-mode": "append"}  # fmt: skip
    assert {name: flags.get(name) for name in expected} == expected and "--requeue" in flags
    words = shlex.split(done.stdout)
    assert words[0] == "sbatch" and words[-5:] == [
        "launch/slurm.sh",
        "--in-the-job",
        "pretrain.sh",
        "--mlm_probability",
        "0.3 ",
    ]


def test_a_slurm_array_has_one_node_per_task():
    done = launch("slurm.sh", "finetune_glue.sh", DRY_RUN="1", ARRAY="8")
    assert flags_of(done.stdout)["--array"] == "0-7" and flags_of(done.stdout)["--output"].endswith("%A_%a.log")
    done = launch("slurm.sh", "finetune_glue.sh", DRY_RUN="1", ARRAY="8", NODES="2")
    assert done.returncode == 2 and "one node each" in done.stderr


def test_ray_without_an_address_uses_this_machine():
    done = launch("ray.sh", "pretrain.sh", "--seed", "7", DRY_RUN="1", NUM_WORKERS="2")
    assert done.returncode == 0, done.stderr
    assert "of this machine" in done.stdout and "2 x {'CPU': 1, 'GPU': 0}" in done.stdout
    assert done.stdout.rstrip().endswith("bash pretrain.sh --seed 7")


def test_ray_submits_the_command_with_the_variables_of_the_script_only():
    exports = {"RAY_ADDRESS": "http://head:8265", "NUM_WORKERS": "4", "OUTPUT_DIR": "/mnt/runs/first", "DRY_RUN": "1"}
    more = {"MAX_STEPS": "10", "WANDB_API_KEY": "hidden1", "HF_TOKEN": "hidden2", "AWS_SECRET_ACCESS_KEY": "hidden3"}
    done = launch("ray.sh", "pretrain.sh", "--run_name", "a b", **exports, **more)
    assert done.returncode == 0, done.stderr
    assert "bash launch/ray.sh pretrain.sh --run_name 'a b'" in done.stdout
    for export in ("NUM_WORKERS=4", "OUTPUT_DIR=/mnt/runs/first", "MAX_STEPS=10"):
        assert f" {export} " in done.stdout
    assert " DS_CONFIG='' " in launch("ray.sh", "pretrain.sh", **exports, DS_CONFIG="").stdout  # empty means plain DDP
    assert "hidden" not in done.stdout and "DRY_RUN" not in done.stdout and "PYTHON=" not in done.stdout
    done = launch("ray.sh", "pretrain.sh", **exports | {"OUTPUT_DIR": "runs/first"})
    assert done.returncode == 2 and "expected an absolute path" in done.stderr and done.stderr.count("\n") == 1


def test_forwarded_variables_are_those_the_script_reads(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    names = set(forwarded_variables("pretrain.sh"))
    assert {"MODEL", "TOKENIZER", "DATASET", "MAX_STEPS", "PREPARED_DIR", "OUTPUT_DIR", "DS_CONFIG"} <= names
    assert not names & {"PATH", "HOME", "PYTHON", "MASTER_ADDR", "DRY_RUN", "WANDB_API_KEY"}
    assert {"RUN", "TASKS", "SEEDS", "GLUE_DATA"} <= set(forwarded_variables("finetune_glue.sh"))
    assert {"RUN", "REFERENCE", "SEEDS", "SQUAD_DATA"} <= set(forwarded_variables("finetune_qa.sh"))


def test_an_unreachable_ray_is_reported_within_seconds(monkeypatch):
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
            held = [socket.create_connection(("127.0.0.1", port)) for _ in range(1)]  # fills the backlog
            with pytest.raises(UserError, match=f"no Ray answers at RAY_ADDRESS={address} .*timed out"):
                ray_cluster.require_reachable(address)
            for one in held:
                one.close()
            server.accept()
    for address in (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
        with pytest.raises(UserError, match="Connection refused"):
            ray_cluster.require_reachable(address)
    with socket.create_server(("127.0.0.1", 0)) as server:  # a server that isn't Ray
        port = server.getsockname()[1]
        threading.Thread(
            target=lambda: server.accept()[0].sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"), daemon=True
        ).start()
        with pytest.raises(UserError, match="a server other than Ray listens"):
            ray_cluster.require_reachable(f"127.0.0.1:{port}")
    for address in ("ray://127.0.0.1:1", "head", "http://head", "127.0.0.1:port"):
        with pytest.raises(UserError, match="expected http://HOST:8265"):
            ray_cluster.require_reachable(address)


def test_missing_ray_is_answered_with_the_install_command(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ray\[train,default\]"):
        ray_cluster.require_ray()


@pytest.mark.parametrize(
    ("launcher", "arguments", "message"),
    [
        ("slurm.sh", ("pretrain.sh",), "apt-get install slurm-wlm"),
        ("slurm.sh", ("pretrian.sh",), "found no pretrian.sh here"),
        ("slurm.sh", (), "found no script to run: name pretrain.sh"),
        ("ray.sh", ("run_mlm.py",), "found run_mlm.py, expected the script to run"),
    ],
)
def test_mistakes_get_one_line(tmp_path, launcher, arguments, message):
    done = launch(launcher, *arguments, PATH=path_without(tmp_path, "sbatch", "sky"))
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def path_without(folder, *programs) -> str:
    """A PATH with all of the system's programs except `programs`."""
    for program in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
        if program.name not in programs and not (folder / program.name).is_symlink():
            (folder / program.name).symlink_to(program)
    return str(folder)
