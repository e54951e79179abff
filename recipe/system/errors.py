"""Errors that users can act on, and the exit codes of all programs."""

import errno
import re

from recipe.system.secrets import redact

USER_ERROR_EXIT_CODE = 2
NONFINITE_EXIT_CODE = 3
CTRL_C_EXIT_CODE = 130  # 128 + SIGINT, as shells report it
INTERRUPTED_EXIT_CODE = 75  # EX_TEMPFAIL in sysexits.h: run the same command again
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch prefixes an error from a DataLoader worker with the worker's traceback.
_WORKER_TRACEBACK = re.compile(r"\ACaught \w+ in .*^[\w.]*Error: ", re.DOTALL | re.MULTILINE)


class UserError(ValueError):
    """A mistake that the user can fix. The message says what was found, what was expected and what to do.

    Secrets in it are redacted, and the traceback that a DataLoader worker puts before it is removed.
    """

    def __init__(self, message: str):
        super().__init__(redact(_WORKER_TRACEBACK.sub("", str(message)).strip()))


class RankError(UserError):
    """An error that only one rank may find, such as a damaged page of its data, so that any rank prints it."""


class SourceBroken(UserError):
    """Reading stopped for an external reason, such as the network. What was read is valid; the next run continues."""
