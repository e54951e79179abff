"""torchrun with two more guarantees: stop signals reach every rank, which then takes the time it needs to save, and the
exit code is that of the first failing rank.

    python -m recipe.launch --standalone --nproc_per_node 8 run_mlm.py ...      the flags of torchrun
"""

import logging
import os
import signal
import sys

import psutil
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from recipe.system.errors import (
    CTRL_C_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    NONFINITE_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
)
from recipe.system.secrets import redact_console, remember_secrets

REPORTED_BY_RANK = (USER_ERROR_EXIT_CODE, NONFINITE_EXIT_CODE, INTERRUPTED_EXIT_CODE, CTRL_C_EXIT_CODE)


def main() -> int:
    remember_secrets(sys.argv)
    redact_console()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _forward)
    # By default torchrun kills the ranks 30 s after SIGTERM and ignores SIGUSR1. The setting is an environment variable
    # because torch 2.9 doesn't know the flag and would refuse to start.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the rank's own message is enough
    args = parse_args(sys.argv[1:])
    try:
        run(args)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code not in REPORTED_BY_RANK:
            print(error, file=sys.stderr)
        return code if code > 0 else 128 - code
    return 0


def _forward(number, frame) -> None:
    for rank in psutil.Process().children():
        rank.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
