"""Settings of the process: log levels of libraries, memory allocation, a check for slow bf16, XLA ranks."""

import ctypes
import os
import warnings

import torch
from transformers.utils import logging


def quiet_libraries() -> None:
    """Lowers the log levels of third-party libraries to errors and disables transformers' progress bars."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no accelerator
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|accelerate|transformers")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


# Parameters of mallopt(3). C libraries other than glibc lack the function or ignore unknown parameters.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Makes glibc reuse large freed blocks instead of returning them to the system; does nothing without glibc.

    By default every tensor above 32 MB gets a new mapping, whose pages the kernel zeroes at first touch: 14 to 34 % of
    the CPU time of a roberta_tiny step with a vocabulary of 50,265. It costs a sixth more resident memory there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES)):
            mallopt(parameter, value)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device is known to have bf16 instructions: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def warning_of_slow_bf16() -> str | None:
    """A warning where this CPU lacks bf16 instructions; None where it has them or this is unknown."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if known.get("architecture") != "x86_64" or has_fast_bf16(torch.device("cpu")):
        return None
    return (
        "found --bf16 on a CPU without AVX512-BF16 and AMX, where matrix products in bf16 can be 180 times slower than "
        "in fp32: leave it out"
    )


def join_xla_ranks() -> None:
    """Joins the launcher's ranks in an XLA process group where PJRT_DEVICE is set; otherwise does nothing."""
    if "PJRT_DEVICE" in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        import torch_xla.distributed.xla_backend  # noqa: F401 (registers the backend) # pyright: ignore[reportMissingImports]

        torch.distributed.init_process_group("xla", init_method="xla://")
