"""The processes of a run: how many the launcher announces in the environment, and whether the Trainer sees as many."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_xla_available, strtobool

from recipe.system.errors import UserError

# What torchrun, accelerate launch and deepspeed set for each process that they start.
NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
NEEDED_TO_MEET = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate reads these, too
ONE_OR_SEVERAL = (
    "unset {names} for one process, or start several with NPROC_PER_NODE=2 bash pretrain.sh, torchrun or "
    "python -m recipe.launch, which set all of them"
)


@dataclass(frozen=True)
class World:
    """`size` processes compute together; this one is number `rank`, from 0."""

    size: int
    rank: int


def announced_world() -> World:
    """What the environment says of the processes of this run.

    Raises UserError where that cannot be a group: a number that is none, a rank outside of the world, or several
    processes without what they need to find each other (they would wait for each other until a timeout).
    """
    found = {name: os.environ[name] for name in (*NUMBERS, "MASTER_ADDR") if os.environ.get(name)}
    for name in NUMBERS:
        if name in found and not found[name].isdigit():
            raise UserError(f"found {name}={found[name]} in the environment, expected a whole number: unset it")
    size, rank = int(found.get("WORLD_SIZE", "1")), int(found.get("RANK", "0"))
    for name in () if "WORLD_SIZE" in found else MPI_SIZES:
        if (of_mpi := os.environ.get(name, "")).isdigit() and int(of_mpi) > 1:
            raise UserError(
                f"found {name}={of_mpi} in the environment and no WORLD_SIZE: start the processes with torchrun or "
                "python -m recipe.launch, not with mpirun or srun alone"
            )
    stray = [f"{name}={found[name]}" for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if name in found]
    if size < 1 or rank >= size:
        names = " and ".join(name.partition("=")[0] for name in stray)
        raise UserError(
            f"found {' and '.join(stray)} in the environment, expected a rank below the number of processes: "
            + ONE_OR_SEVERAL.format(names=names)
        )
    missing = [name for name in NEEDED_TO_MEET if name not in found]
    if missing and (size > 1 or "LOCAL_RANK" in found):
        names = " and ".join(name.partition("=")[0] for name in stray)
        by_slurm = "; srun sets only SLURM_PROCID: see launch/slurm.sh" if "SLURM_PROCID" in os.environ else ""
        raise UserError(
            f"found {' and '.join(stray)} in the environment, but no {', '.join(missing)}: "
            + ONE_OR_SEVERAL.format(names=names)
            + by_slurm
        )
    return World(size, rank)


def clear_launcher_variables() -> None:
    """Drops what a launcher set, for a program whose processes are no ranks of one run."""
    for name in (*NUMBERS, *NEEDED_TO_MEET, "LOCAL_WORLD_SIZE", *MPI_SIZES):
        os.environ.pop(name, None)


def select_device(args: TrainingArguments, world: World) -> None:
    """To be called before TrainingArguments choose a device: sets use_cpu where there is nothing else, and joins the
    processes of a CPU run.

    accelerate makes several CPU processes a group only with use_cpu (measured with 1.15: without it each rank believes
    that it is alone). --bf16 still asks for --use_cpu in words: it may have been meant for a GPU that isn't found.
    """
    if strtobool(os.environ.get("ACCELERATE_USE_CPU") or "false"):
        args.use_cpu = True
    if not (args.bf16 or torch.accelerator.is_available() or is_torch_xla_available()):
        args.use_cpu = True
    if args.use_cpu and world.size > 1 and not is_torch_xla_available() and not torch.distributed.is_initialized():
        # The Trainer passes ddp_timeout on for other devices only: a lost host would be waited for half an hour.
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=args.ddp_timeout))


def require_world(args: TrainingArguments, world: World) -> None:
    """Raises UserError where the Trainer sees other processes than the launcher announced: half the batch would be
    trained on, and several runs would write into one folder."""
    seen = World(args.world_size, args.process_index)
    if is_torch_xla_available():
        seen = World(seen.size, world.rank)  # XLA numbers its devices by their place
    if seen != world:
        raise UserError(
            f"the launcher announces rank {world.rank} of {world.size} processes, but the Trainer sees rank "
            f"{seen.rank} of {seen.size}: start them with bash pretrain.sh, torchrun or python -m recipe.launch; on "
            "CPUs with --use_cpu"
        )
