"""Errors a user can act on, and the exit codes of every program."""

import errno
import re

from recipe.system.secrets import redact

USER_ERROR_EXIT_CODE = 2
NONFINITE_EXIT_CODE = 3
INTERRUPTED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What torch makes of the message of an error that was raised in a DataLoader's worker: a traceback that ends with it.
_FROM_A_WORKER = re.compile(r"\ACaught \w+ in .*^[\w.]*Error: ", re.DOTALL | re.MULTILINE)


class UserError(ValueError):
    """A mistake the user can mend. Its message says what was found, what was expected and the one thing to do, also
    where it comes out of a DataLoader's worker, and no secret."""

    def __init__(self, message: str):
        super().__init__(redact(_FROM_A_WORKER.sub("", str(message)).strip()))


class RankError(UserError):
    """What one rank alone may have found, such as a damaged page of its data: that rank says it, whichever it is."""


class SourceBroken(UserError):
    """Data stopped coming for a reason outside of it: what came so far is good, and the next run continues it."""
