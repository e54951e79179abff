"""pretrain.sh and the sweeps, finetune_glue.sh and finetune_qa.sh, on a Ray cluster; launch/ray.sh is the front door.

RAY_ADDRESS=http://HOST:8265 submits the command as a job, which then runs it on the cluster. There pre-training is a
Ray Train run whose workers each are a node of torchrun: they run `bash pretrain.sh`, as a SLURM node does. When one
dies, Ray ends its group and starts it again, and the run continues from the newest whole checkpoint in OUTPUT_DIR; Ray
keeps no checkpoints of its own. The sweep's jobs are Ray tasks (recipe/sweep/executors.py).
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
from recipe.launch.ray_cluster import connect, require_answer, require_ray
from recipe.system import paths
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError
from recipe.system.processes import end_with_parent

TRAINING = "pretrain.sh"
SCRIPTS = (TRAINING, "finetune_glue.sh", "finetune_qa.sh")
LAUNCH_SETTINGS = ("NUM_WORKERS", "GPUS_PER_WORKER", "CPUS_PER_WORKER", "MAX_FAILURES")
# What a machine decides for itself, and what is of the launch and not of the run.
NOT_SETTINGS = {
    "PYTHON",
    "DRY_RUN",
    "CUDA_VISIBLE_DEVICES",
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "ENGINE",
}
# A starting worker hits these again: they are the run's answer, no reason to start it anew.
ANSWERS = (0, USER_ERROR_EXIT_CODE, NONFINITE_EXIT_CODE, INTERRUPTED_EXIT_CODE)
# Patterns of .gitignore: data, checkpoints and what may hold secrets stay at home, whatever .gitignore says.
STAYS_AT_HOME = (
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
    workers, failures = number("NUM_WORKERS", 1, 1), number("MAX_FAILURES", 3, 0)
    resources = {"CPU": number("CPUS_PER_WORKER", 1, 0), "GPU": number("GPUS_PER_WORKER", 0, 0)}
    if address:
        require_shared_paths(command[0])
    if address.startswith("http"):
        return submit(address, command)
    if os.environ.get("DRY_RUN"):
        where = f"the cluster at {address}" if address else "a cluster of this machine, ended with the run"
        what = f"{workers} x {resources}, up to {failures} restarts" if command[0] == TRAINING else "ENGINE=ray"
        print(f"on {where}: {what}: bash {shlex.join(command)}")
        return 0
    if command[0] != TRAINING:
        os.environ["ENGINE"] = "ray"
        os.execvp("bash", ["bash", *command])
    return pretrain(command, workers, resources, failures)


def number(name: str, default: int, least: int) -> int:
    """The whole number in an environment variable. Raises UserError."""
    value = os.environ.get(name) or str(default)
    if not value.isdigit() or int(value) < least:
        raise UserError(f"found {name}={value}, expected a whole number from {least}")
    return int(value)


def require_shared_paths(script: str) -> None:
    """Raises UserError unless the run's folder is named by its place on a disk that the cluster shares: a relative one
    would be in the job's own copy of the working directory."""
    name = "OUTPUT_DIR" if script == TRAINING else "RUN"
    for path in os.environ.get(name, "").split() or [""]:
        if not path.startswith(("/", "random:")):
            raise UserError(
                f"found {name}={path} on a cluster, expected an absolute path on a disk that all its machines share, "
                f"such as {name}=/mnt/shared/runs/first"
            )


def submit(address: str, command: list[str]) -> int:
    """Runs `command` as a Ray job, prints its log and returns its exit code. Stopping this leaves the job running."""
    entrypoint = f"bash launch/ray.sh {shlex.join(command)}"
    environment = {name: os.environ[name] for name in settings_of(command[0]) if name in os.environ}
    if os.environ.get("DRY_RUN"):
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        print(f"to {address}: {exports} {entrypoint}\nstays at home: {' '.join(STAYS_AT_HOME)} and what git ignores")
        return 0
    require_ray()
    require_answer(address)
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    runtime = {"working_dir": ".", "excludes": list(STAYS_AT_HOME), "env_vars": environment}
    job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
    print(f"job {job}: stop it with ray job stop --address {address} {job}", flush=True)
    asyncio.run(follow(client, job))
    info = client.get_job_info(job)
    if info.driver_exit_code is None:
        print(f"error: job {job}: {info.status}: {info.message}", file=sys.stderr)
        return 1
    return info.driver_exit_code


async def follow(client, job: str) -> None:
    """Prints the job's log until the job ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def settings_of(script: str) -> list[str]:
    """The names of the variables that the script can be told, and of the launcher's own. No others travel: the
    environment is where keys and tokens live."""
    read = re.findall(r"\$\{([A-Z][A-Z0-9_]*)", Path(script).read_text())
    return sorted({*read, *LAUNCH_SETTINGS} - NOT_SETTINGS)


def pretrain(command: list[str], workers: int, resources: dict, failures: int) -> int:
    """A Ray Train run of `command`; returns its exit code."""
    ray = connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray wants a folder for its own record of the run; nothing of ours is in it.
    folder = os.environ["OUTPUT_DIR"] if os.environ.get("RAY_ADDRESS") else tempfile.mkdtemp()
    trainer = DataParallelTrainer(
        as_a_node,
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


def as_a_node(config: dict) -> int:
    """What a Ray Train worker does: it runs the command as one node of torchrun's and returns its exit code."""
    import ray
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    rank, nodes = get_context().get_world_rank(), get_context().get_world_size()
    own = ray.get_runtime_context().get_node_id()
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own)
    with socket.create_server(("", 0)) as port:  # a free one; torchrun takes it a moment later
        here = (address, port.getsockname()[1])
    host, port = broadcast_from_rank_zero(here)
    place = {"NNODES": str(nodes), "NODE_RANK": str(rank), "MASTER_ADDR": host, "MASTER_PORT": str(port)}
    environment = os.environ | place | {"PYTHON": sys.executable}
    folder = paths.ROOT  # this machine's checkout; Ray pickles a plain ROOT with the driver's value
    code = subprocess.call(["bash", *config["command"]], cwd=folder, env=environment, preexec_fn=end_with_parent)
    if code not in ANSWERS:
        raise RuntimeError(f"worker {rank} of {nodes} ended with {code}")
    return code


if __name__ == "__main__":
    run_script(main)
