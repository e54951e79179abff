"""Several ranks without their imports: forked children of this process, each with a rank's environment."""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


def start_ranks(ranks: int, work: Callable[[int], object], folder: Path) -> list[int]:
    """Forks `ranks` children that call `work(rank)`. Its answer goes to folder/rank.json, what it says to
    folder/rank.log. Returns their process ids."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            # A fork has none of the threads with which this process tokenised: it would wait for them.
            place |= {"TOKENIZERS_PARALLELISM": "false"}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
            os.environ.update({name: str(value) for name, value in place.items()})
            log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # pytest's are gone
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for state in (AcceleratorState, GradientState, PartialState):  # of the trainers this process had
                state._reset_state()
            torch.set_num_threads(1)
            (folder / f"{rank}.json").write_text(json.dumps(work(rank)))
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    return children


def run_ranks(ranks: int, work: Callable[[int], object], folder: Path) -> list:
    """What `work(rank)` returned on each of `ranks`, which must all end well."""
    children = start_ranks(ranks, work, folder)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = "\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(ranks))
    assert codes == [0] * ranks, said
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
