"""How every script starts and ends: one line and exit code 2 for a user's mistake, ranks that end together."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from recipe.system.errors import DISK_FULL, INTERRUPTED_EXIT_CODE, USER_ERROR_EXIT_CODE, RankError, UserError
from recipe.system.processes import end_with_parent
from recipe.system.secrets import redact_console, remember_secrets


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` as a program: exits with what it returns (None is 0), or with 2 and one line for a `UserError`.

    Under a launcher every rank finds the same mistake; only the first of a node says it. A process that is alone always
    does, whatever LOCAL_RANK it finds. A rank ends with its launcher. Nothing that is printed shows a secret.
    """
    remember_secrets(sys.argv)
    redact_console()
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
        code = 130  # as a shell says it: 128 + SIGINT, before training began; there was nothing to save
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"error: no space left{where} ({error.strerror}): make room and run this again", file=sys.stderr)
        code = USER_ERROR_EXIT_CODE
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        reason = str(error).strip().splitlines()[0]
        print(f"error: lost contact with another rank ({reason}): run the same command again", file=sys.stderr)
        sys.stdout.flush()
        os._exit(INTERRUPTED_EXIT_CODE)  # the others cannot be waited for
    _leave_together(code)
    sys.exit(code)


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether a collective failed because a rank, its host or the way to it is gone."""
    distributed = sys.modules.get("torch.distributed")
    if not (distributed and distributed.is_available() and distributed.is_initialized()):
        return False
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _leave_together(code: int) -> None:
    """Ends a rank of several without the interpreter's own ending, in which gloo's threads now and then abort it."""
    distributed = sys.modules.get("torch.distributed")
    if not (distributed and distributed.is_available() and distributed.is_initialized()):
        return
    if code != USER_ERROR_EXIT_CODE:  # a mistake may be one rank's alone, all else is everybody's
        with contextlib.suppress(RuntimeError):  # its work is done, whatever became of the others
            distributed.barrier()
    distributed.destroy_process_group()
    if wandb := sys.modules.get("wandb"):
        with contextlib.suppress(Exception):  # a tracker's end is not the run's
            wandb.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
