"""The process a program runs in: log levels of libraries, memory and instructions of the CPU, XLA devices."""

import ctypes
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


# Parameters of mallopt(3); another C library than glibc has no such function, or passes over what it doesn't know.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Lets glibc keep large freed blocks for the next ones in place of giving them back to the system.

    By default every tensor above 32 MB is mapped anew and the system fills its pages with zeros at first touch: 14 to
    34 % of the CPU time of a roberta_tiny step with 50,265 words. Costs a sixth more resident memory there. Changes
    nothing where the C library isn't glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES)):
            mallopt(parameter, value)


def warning_of_slow_bf16() -> str | None:
    """A sentence where this CPU has no instructions for bf16; None where it has them, or nobody knows."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if known.get("architecture") != "x86_64" or known.get("avx512_bf16") or known.get("amx_bf16"):
        return None
    return (
        "found --bf16 on a CPU without AVX512-BF16 and AMX, where matrix products in it can be 180 times slower than "
        "in fp32: leave it out"
    )


def join_xla_ranks() -> None:
    """Joins the ranks of a launcher where PJRT_DEVICE says that they compute through XLA; elsewhere nothing."""
    if "PJRT_DEVICE" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        import torch_xla.distributed.xla_backend  # noqa: F401 (registers the backend)

        torch.distributed.init_process_group("xla", init_method="xla://")
