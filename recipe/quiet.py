"""The libraries' chatter, silenced: what a run prints is its own."""

import logging
import os
import warnings

import transformers


def quiet_libraries() -> None:
    """Leaves only errors of the libraries, and no progress bars of theirs for what takes a moment."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|accelerate|transformers")
