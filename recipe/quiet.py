"""The libraries' chatter, silenced: what a run prints is its own."""

import os
import warnings

import torch
import transformers


def quiet_libraries() -> None:
    """Leaves only errors of the libraries, and no progress bars of theirs for what takes a moment."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|accelerate|transformers")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
