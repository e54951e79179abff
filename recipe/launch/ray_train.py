"""pretrain.sh and the sweeps finetune_glue.sh and finetune_qa.sh on a Ray cluster, started with launch/ray.sh.

RAY_ADDRESS=http://HOST:8265 submits the command as a job, which runs it on the cluster. There pre-training is a Ray
Train run in which each worker is a torchrun node: it runs `bash pretrain.sh`, as a SLURM node does. When a worker dies,
Ray stops the group and restarts it, and the run continues from the newest complete checkpoint in OUTPUT_DIR; Ray keeps
no checkpoints itself. The jobs of a sweep are Ray tasks (recipe/sweep/executors.py).
"""

import asyncio
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from recipe.cli.program import run_script
from recipe.launch.ray_cluster import connect, require_ray, require_reachable
from recipe.system import paths
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError
from recipe.system.processes import end_with_parent

# Ray is no requirement: it is installed where it is used.
# pyright: reportMissingImports=false

TRAINING = "pretrain.sh"
SCRIPTS = (TRAINING, "finetune_glue.sh", "finetune_qa.sh")
LAUNCH_SETTINGS = ("NUM_WORKERS", "GPUS_PER_WORKER", "CPUS_PER_WORKER", "MAX_FAILURES")
# Variables that each machine sets for itself, and those of the launch rather than the run.
NOT_FORWARDED = {
    "PYTHON",
    "DRY_RUN",
    "CUDA_VISIBLE_DEVICES",
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "ENGINE",
}
# Exit codes after which Ray must not restart the run: a new worker would end the same way.
FINAL_EXIT_CODES = (0, USER_ERROR_EXIT_CODE, NONFINITE_EXIT_CODE, INTERRUPTED_EXIT_CODE)
# Patterns in the syntax of .gitignore: data, checkpoints and files that may hold secrets are never uploaded.
NOT_UPLOADED = (
    "/data/", "/runs/", "/wandb/", ".git/", ".venv/", "venv/", "__pycache__/", "checkpoint-*/", "*.safetensors",
    "*.pt", "*.pth", "*.bin", "*.npy", "*.parquet", "*.zst", "*.gz",
    ".env", ".env.*", "*.env", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "*credentials*", "*secret*",
    ".ssh/", ".aws/", ".config/", ".cache/", ".huggingface/",
)  # fmt: skip


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        found = sys.argv[1] if len(sys.argv) > 1 else "nothing"
        raise UserError(f"found {found}, expected the script to run, {' or '.join(SCRIPTS)}, then its flags")
    command = sys.argv[1:]
    address = os.environ.get("RAY_ADDRESS", "")
    workers, failures = integer("NUM_WORKERS", 1, 1), integer("MAX_FAILURES", 3, 0)
    resources = {"CPU": integer("CPUS_PER_WORKER", 1, 0), "GPU": integer("GPUS_PER_WORKER", 0, 0)}
    if address:
        require_shared_paths(command[0])
    if address.startswith("http"):
        return submit(address, command)
    if os.environ.get("DRY_RUN"):
        where = f"the cluster at {address}" if address else "a new cluster of this machine, which ends with the run"
        what = f"{workers} x {resources}, up to {failures} restarts" if command[0] == TRAINING else "ENGINE=ray"
        print(f"on {where}: {what}: bash {shlex.join(command)}")
        return 0
    if command[0] != TRAINING:
        os.environ["ENGINE"] = "ray"
        os.execvp("bash", ["bash", *command])
    return pretrain(command, workers, resources, failures)


def integer(name: str, default: int, least: int) -> int:
    """The integer in an environment variable. Raises UserError for anything else and for values below `least`."""
    value = os.environ.get(name) or str(default)
    if not value.isdigit() or int(value) < least:
        raise UserError(f"found {name}={value}, expected a whole number from {least}")
    return int(value)


def require_shared_paths(script: str) -> None:
    """Raises UserError unless the run's folder is an absolute path: a relative one would be in the job's copy of the
    working directory, not on a shared disk."""
    name = "OUTPUT_DIR" if script == TRAINING else "RUN"
    for path in os.environ.get(name, "").split() or [""]:
        if not path.startswith(("/", "random:")):
            raise UserError(
                f"found {name}={path} on a cluster, expected an absolute path on a disk that all its machines share, "
                f"such as {name}=/mnt/shared/runs/first"
            )


def submit(address: str, command: list[str]) -> int:
    """Runs `command` as a Ray job, prints its log and returns its exit code. If stopped, it leaves the job running."""
    entrypoint = f"bash launch/ray.sh {shlex.join(command)}"
    environment = {name: os.environ[name] for name in forwarded_variables(command[0]) if name in os.environ}
    if os.environ.get("DRY_RUN"):
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        print(f"to {address}: {exports} {entrypoint}\nnot uploaded: {' '.join(NOT_UPLOADED)} and what git ignores")
        return 0
    require_ray()
    require_reachable(address)
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    runtime = {"working_dir": ".", "excludes": list(NOT_UPLOADED), "env_vars": environment}
    job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
    print(f"job {job}: stop it with ray job stop --address {address} {job}", flush=True)
    asyncio.run(follow(client, job))
    info = client.get_job_info(job)
    if info.driver_exit_code is None:
        print(f"error: job {job}: {info.status}: {info.message}", file=sys.stderr)
        return 1
    return info.driver_exit_code


async def follow(client, job: str) -> None:
    """Prints a job's log until the job ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def forwarded_variables(script: str) -> list[str]:
    """The environment variables that the script reads and those of this launcher. No others are forwarded, as the
    environment may hold keys and tokens."""
    read = re.findall(r"\$\{([A-Z][A-Z0-9_]*)", Path(script).read_text())
    return sorted({*read, *LAUNCH_SETTINGS} - NOT_FORWARDED)


def pretrain(command: list[str], workers: int, resources: dict, failures: int) -> int:
    """Runs `command` with Ray Train and returns its exit code."""
    ray = connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray needs a folder for its own record of the run; no output of this project is in it.
    folder = os.environ["OUTPUT_DIR"] if os.environ.get("RAY_ADDRESS") else tempfile.mkdtemp()
    trainer = DataParallelTrainer(
        run_node,
        train_loop_config={"command": command},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=resources["GPU"] > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray", storage_path=str(Path(folder).absolute()), failure_config=FailureConfig(max_failures=failures)
        ),
    )
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        print(f"error: the run failed {failures + 1} times: {error}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()


def run_node(config: dict) -> int:
    """The work of a Ray Train worker: runs the command as one torchrun node and returns its exit code."""
    import ray
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    rank, nodes = get_context().get_world_rank(), get_context().get_world_size()
    own = ray.get_runtime_context().get_node_id()
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own)
    with socket.create_server(("", 0)) as port:  # a free one, which torchrun uses a moment later
        own_endpoint = (address, port.getsockname()[1])
    host, port = broadcast_from_rank_zero(own_endpoint)
    rendezvous = {"NNODES": str(nodes), "NODE_RANK": str(rank), "MASTER_ADDR": host, "MASTER_PORT": str(port)}
    environment = os.environ | rendezvous | {"PYTHON": sys.executable}
    folder = paths.ROOT  # of this machine: Ray would pickle an imported ROOT with the driver's path
    code = subprocess.call(["bash", *config["command"]], cwd=folder, env=environment, preexec_fn=end_with_parent)
    if code not in FINAL_EXIT_CODES:
        raise RuntimeError(f"worker {rank} of {nodes} ended with {code}")
    return code


if __name__ == "__main__":
    run_script(main)
