"""How scripts start and end: redacted output, exit codes, one line for a user's mistake, ranks that end together."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from recipe.system.errors import (
    CTRL_C_EXIT_CODE,
    DISK_FULL,
    INTERRUPTED_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    RankError,
    UserError,
)
from recipe.system.processes import end_with_parent
from recipe.system.secrets import redact_console, remember_secrets
from recipe.system.signals import announce_stop, end_on_ctrl_c


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` as a program: exits with its return value (None is 0), or with 2 and one line for a `UserError`.

    All ranks find the same mistake, so only the first of each node prints it; a single process always does, whatever
    LOCAL_RANK says. A rank is killed when its launcher ends. Secrets in the output are redacted.
    """
    remember_secrets(sys.argv)
    redact_console()
    end_on_ctrl_c()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    try:
        code = main() or 0
    except UserError as error:
        first = os.environ.get("LOCAL_RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
        if first or isinstance(error, RankError):
            print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        announce_stop()
        code = CTRL_C_EXIT_CODE
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"error: no space left{where} ({error.strerror}): free some space and run this again", file=sys.stderr)
        code = USER_ERROR_EXIT_CODE
    except RuntimeError as error:
        if not _is_network_failure(error):
            raise
        reason = str(error).strip().splitlines()[0]
        print(f"error: lost contact with another rank ({reason}): run the same command again", file=sys.stderr)
        sys.stdout.flush()
        os._exit(INTERRUPTED_EXIT_CODE)  # waiting for the other ranks would hang
    _exit_ranks_together(code)
    sys.exit(code)


def _is_network_failure(error: RuntimeError) -> bool:
    """Whether a collective operation failed because a rank, its host or the connection to it is gone."""
    distributed = sys.modules.get("torch.distributed")
    if not (distributed and distributed.is_available() and distributed.is_initialized()):
        return False
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _exit_ranks_together(code: int) -> None:
    """Ends one of several ranks without interpreter shutdown, in which gloo's threads sometimes abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if not (distributed and distributed.is_available() and distributed.is_initialized()):
        return
    if code not in (
        USER_ERROR_EXIT_CODE,
        CTRL_C_EXIT_CODE,
    ):  # these may concern a single rank, others concern all
        with contextlib.suppress(RuntimeError):  # this rank's work is done even if others failed
            distributed.barrier()
    distributed.destroy_process_group()
    if wandb := sys.modules.get("wandb"):
        with contextlib.suppress(Exception):  # a tracker's failure must not change the exit code
            wandb.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
