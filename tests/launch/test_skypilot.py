"""launch/gpu.yaml and launch/tpu.yaml: the commands of their hosts, and (slow) that SkyPilot accepts the files."""

import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest
import yaml
from toy import REPOSITORY

FILES = ("gpu.yaml", "tpu.yaml")
HOST = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
PROGRAM = """
import json, sys
import sky, yaml
from sky.data import storage_utils

task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), env_overrides=[("BUCKET", "gs://some-bucket")])
task_config = task.to_yaml_config()
task_config["excluded"] = storage_utils.get_excluded_files(sys.argv[2])
task_config["resources_read"] = [str(resources) for resources in task.resources]
print(json.dumps(task_config, default=str))
"""


def task(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / "launch" / name).read_text())


def on_a_host(name: str, **more) -> list[str]:
    """The command that a host of the task would run, as DRY_RUN prints it, split into words."""
    settings = {key: str(value) for key, value in task(name)["envs"].items() if value is not None}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHON": sys.executable}
    environment |= settings | HOST | {"DRY_RUN": "command"} | more
    done = subprocess.run(
        ["bash", "-c", task(name)["run"]], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_gpu_hosts_use_the_first_as_master_and_share_the_bucket():
    words = on_a_host("gpu.yaml")
    pairs = set(pairwise(words))
    expected = {
        ("--nnodes", "2"), ("--node_rank", "1"), ("--master_addr", "10.0.0.1"), ("--prepared_dir", "/bucket/data"),
        ("--output_dir", "/bucket/runs/first"), ("--config_name", "configs/roberta_medium.json"),
    }  # fmt: skip
    assert expected <= pairs


def test_tpu_hosts_start_one_process_per_chip():
    words = on_a_host("tpu.yaml")
    pairs = set(pairwise(words))
    expected = {
        ("--nnodes", "2"), ("--node_rank", "1"), ("--master_addr", "10.0.0.1"), ("--nproc_per_node", "8"),
        ("--output_dir", "/bucket/runs/first"), ("--optim", "adamw_torch"), ("--bf16", "true"),
    }  # fmt: skip
    assert expected <= pairs and "--deepspeed" not in words


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
def test_skypilot_accepts_the_task(name, sky, tmp_path):
    checkout = tmp_path / "checkout"
    secret = ("data/x/train.npy", "runs/a/model.safetensors", ".env", "deploy.pem", "gcp-credentials.json")
    for file in (*secret, "recipe/data/preparation.py"):
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        (checkout / file).touch()
    (checkout / ".skyignore").write_text((REPOSITORY / ".skyignore").read_text())
    command = [sky, "-c", PROGRAM, str(REPOSITORY / "launch" / name), str(checkout)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert read["file_mounts"]["/bucket"]["source"] == "gs://some-bucket"
    assert read["run"] == task(name)["run"] and read["setup"] == task(name)["setup"]
    assert all("Spot" in resources and "GCP" in resources for resources in read["resources_read"])
    excluded = [path.strip("/") for path in read["excluded"]]
    assert all(any(file.startswith(path) for path in excluded) for file in secret), excluded
    assert not any("recipe/data/preparation.py".startswith(path) for path in excluded)


@pytest.fixture(scope="session")
def sky(tmp_path_factory) -> str:
    """A Python interpreter with SkyPilot: SKY_PYTHON, or a new virtual environment."""
    if os.environ.get("SKY_PYTHON"):
        return os.environ["SKY_PYTHON"]
    folder = tmp_path_factory.mktemp("sky")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "skypilot[gcp]==0.14.1"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"SkyPilot cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python
