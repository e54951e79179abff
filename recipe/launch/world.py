"""World size and rank of a run: what the launcher's environment variables say, and whether the Trainer agrees."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from transformers import TrainingArguments
from transformers.utils.generic import strtobool
from transformers.utils.import_utils import is_torch_xla_available

from recipe.system.errors import UserError

# Set by torchrun, accelerate launch and deepspeed for every process.
INTEGERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
RENDEZVOUS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate reads these as well
REMEDY = (
    "unset {names} for one process, or start several with NPROC_PER_NODE=2 bash pretrain.sh, torchrun or "
    "python -m recipe.launch, which set all of them"
)


@dataclass(frozen=True)
class World:
    """The number of processes in a run, and the rank of this one."""

    size: int
    rank: int


def announced_world() -> World:
    """World size and rank according to the environment.

    Raises UserError for a variable that isn't an integer, a rank outside of the world, and several processes without
    the variables for their rendezvous (they would wait for each other until a timeout).
    """
    found = {name: os.environ[name] for name in (*INTEGERS, "MASTER_ADDR") if os.environ.get(name)}
    for name in INTEGERS:
        if name in found and not found[name].isdigit():
            raise UserError(f"found {name}={found[name]} in the environment, expected a whole number: unset it")
    size, rank = int(found.get("WORLD_SIZE", "1")), int(found.get("RANK", "0"))
    for name in () if "WORLD_SIZE" in found else MPI_SIZES:
        if (mpi_size := os.environ.get(name, "")).isdigit() and int(mpi_size) > 1:
            raise UserError(
                f"found {name}={mpi_size} in the environment and no WORLD_SIZE: start the processes with torchrun or "
                "python -m recipe.launch, not with mpirun or srun alone"
            )
    stray = [f"{name}={found[name]}" for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if name in found]
    if size < 1 or rank >= size:
        names = " and ".join(name.partition("=")[0] for name in stray)
        raise UserError(
            f"found {' and '.join(stray)} in the environment, expected a rank below the number of processes: "
            + REMEDY.format(names=names)
        )
    missing = [name for name in RENDEZVOUS if name not in found]
    if missing and (size > 1 or "LOCAL_RANK" in found):
        names = " and ".join(name.partition("=")[0] for name in stray)
        by_slurm = "; srun sets only SLURM_PROCID: see launch/slurm.sh" if "SLURM_PROCID" in os.environ else ""
        raise UserError(
            f"found {' and '.join(stray)} in the environment, but no {', '.join(missing)}: "
            + REMEDY.format(names=names)
            + by_slurm
        )
    return World(size, rank)


def clear_launcher_variables() -> None:
    """Removes the launcher's environment variables, for a program whose processes are not ranks of one run."""
    for name in (*INTEGERS, *RENDEZVOUS, "LOCAL_WORLD_SIZE", *MPI_SIZES):
        os.environ.pop(name, None)


def select_device(args: TrainingArguments, world: World) -> None:
    """Sets use_cpu where there is no accelerator, and joins the ranks of a CPU run in a process group. Call it before
    TrainingArguments choose a device.

    accelerate groups CPU processes only with use_cpu (seen in 1.15: without it each rank runs alone). --bf16 on a CPU
    requires an explicit --use_cpu, as it may have been meant for a GPU that wasn't found.
    """
    if strtobool(os.environ.get("ACCELERATE_USE_CPU") or "false"):
        args.use_cpu = True
    if not (args.bf16 or torch.accelerator.is_available() or is_torch_xla_available()):
        args.use_cpu = True
    if args.use_cpu and world.size > 1 and not is_torch_xla_available() and not torch.distributed.is_initialized():
        # The Trainer ignores ddp_timeout on CPUs: a lost host would be noticed only after half an hour.
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=args.ddp_timeout))


def require_world(args: TrainingArguments, world: World) -> None:
    """Raises UserError where the Trainer's world differs from the launcher's: each rank would train alone, on part of
    the batch, and all would write to one folder."""
    seen = World(args.world_size, args.process_index)
    if is_torch_xla_available():
        seen = World(seen.size, world.rank)  # XLA numbers its devices by position
    if seen != world:
        raise UserError(
            f"the launcher announces rank {world.rank} of {world.size} processes, but the Trainer sees rank "
            f"{seen.rank} of {seen.size}: start them with bash pretrain.sh, torchrun or python -m recipe.launch; on "
            "CPUs with --use_cpu"
        )
