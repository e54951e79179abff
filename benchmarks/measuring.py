"""What every benchmark here needs: the machine in words, its matrix rate, memory of a process, a table, a JSON file."""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recipe.system.secrets import redact_words  # noqa: E402

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "deepspeed", "numpy")
SIDE = {"cpu": 1536, "cuda": 8192}  # rows of the square matrices whose product is timed: 7 GFLOP, 1.1 TFLOP
PRODUCTS = {"cpu": 3, "cuda": 30}
TRIES = 3


def machine() -> dict:
    """Device, threads, load, date and versions: what a figure means nothing without."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "device": device,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # above the number of cores, others were at work, too
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def matrix_rate(dtype: torch.dtype, size: int | None = None) -> float:
    """FLOP per second of a square matrix product on the device at hand: the best of a few tries."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size or SIDE[device]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    best = 0.0
    for _ in range(TRIES):
        synchronize()
        began = time.perf_counter()
        for _ in range(PRODUCTS[device]):
            left @ right
        synchronize()
        best = max(best, 2 * size**3 * PRODUCTS[device] / (time.perf_counter() - began))
    return best


def synchronize() -> None:
    """Waits until the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, or VmHWM, the highest since the start or the last `forget_peak`. 0 where there
    is no /proc."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def forget_peak() -> None:
    """Lets the peaks begin anew."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def publish(title: str, table: str, found: object, output: Path | None) -> None:
    """Prints machine and table; writes the JSON with every single figure where `output` says."""
    about = machine()
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "transformers") if about[name])
    print(
        f"{title}\n{about['device']} ({about['processor']}), {about['threads']} threads, load {about['load']}, "
        f"{versions}, Python {about['python']}, {about['date']}\n\n{table}"
    )
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        content = {"title": title, "command": redact_words(sys.argv), "machine": about, "found": found}
        output.write_text(json.dumps(content, indent=2, default=str) + "\n")
