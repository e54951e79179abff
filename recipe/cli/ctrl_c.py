"""Imported before all else by a program: until recipe.cli.program takes over, Ctrl-C ends it in one line.

Importing torch and transformers takes seconds, and a KeyboardInterrupt inside an import prints a page of traceback.
"""

import os
import signal
import sys

from recipe.system.errors import CTRL_C_EXIT_CODE


def _end(number: int, frame) -> None:
    if os.environ.get("RANK", "0") == "0":
        print("\nstopped by Ctrl-C: nothing had begun", file=sys.stderr, flush=True)
    os._exit(CTRL_C_EXIT_CODE)


signal.signal(signal.SIGINT, _end)
