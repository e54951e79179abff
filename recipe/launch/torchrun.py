"""torchrun with two promises that it doesn't make: a stop signal reaches every rank and nothing of its work is cut
short, and the exit code is that of the rank that ended badly first.

    python -m recipe.launch --standalone --nproc_per_node 8 run_mlm.py ...      torchrun's own flags
"""

import logging
import os
import signal
import sys

import psutil
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, USER_ERROR_EXIT_CODE
from recipe.system.secrets import redact_console, remember_secrets

SAID_BY_THE_RANK = (USER_ERROR_EXIT_CODE, NONFINITE_EXIT_CODE, INTERRUPTED_EXIT_CODE)


def main() -> int:
    remember_secrets(sys.argv)
    redact_console()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _pass_on)
    # torchrun itself would answer SIGTERM by killing the ranks after 30 s, and SIGUSR1 by leaving them alone. Its flag
    # is given through the environment, where torch 2.9 passes over it instead of refusing to start.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what a rank says of its end is enough
    args = parse_args(sys.argv[1:])
    try:
        run(args)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code not in SAID_BY_THE_RANK:
            print(error, file=sys.stderr)
        return code if code > 0 else 128 - code
    return 0


def _pass_on(number, frame) -> None:
    for rank in psutil.Process().children():
        rank.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
