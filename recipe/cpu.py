"""What makes a CPU fast or slow: freed memory that the C library keeps, and instructions for bf16."""

import ctypes

import torch

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
