"""A few measured steps on this device before a run, cached per machine and shape: the basis of its planned time."""

import contextlib
import copy
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from recipe.data.blocks import OrderedBlocks
from recipe.model.config import is_causal
from recipe.model.heads import use_masked_only_head, use_next_token_head
from recipe.system.files import DamagedFile, read_object, write_json
from recipe.train.arguments import PretrainArguments

SECONDS = 10.0  # that a calibration may take; a step that takes longer is measured on fewer sequences
FILE = "calibration.json"
UPDATES = 3  # optimizer updates that are timed


@dataclass(frozen=True)
class Conditions:
    """How a run computes: on which device, in which precision, how many sequences at a time, in how many processes."""

    device: torch.device
    micro_batch: int
    bf16: bool = False
    fp16: bool = False
    max_grad_norm: float = 1.0  # 0: gradients are not clipped
    processes: int = 1
    rank: int = 0
    evaluates: bool = True

    @classmethod
    def of(cls, args: PretrainArguments) -> "Conditions":
        """Those of a run."""
        return cls(
            args.device,
            args.per_device_train_batch_size,
            args.bf16,
            args.fp16,
            args.max_grad_norm,
            args.world_size,
            args.process_index,
            args.do_eval,
        )

    @property
    def in_group(self) -> bool:
        """Whether several processes measure together."""
        return self.processes > 1 and torch.distributed.is_initialized()


@dataclass(frozen=True)
class Calibration:
    """Seconds and bytes that one process measured. `micro_batch` is the number of sequences that were timed together:
    that of the run, or as many as the time allowed."""

    micro_batch: int
    sequence_seconds: float  # forward and backward, per sequence
    fastest: float  # share of sequence_seconds that the fastest of the timed micro-batches took
    slowest: float
    evaluation_seconds: float  # forward alone, per sequence
    update_seconds: float  # clipping and optimizer, per step
    reduce_seconds: float  # reducing the gradients of all ranks, per step
    activation_bytes: int  # kept for the backward pass, per sequence


def calibrated(
    model: PreTrainedModel, data: OrderedBlocks, conditions: Conditions, folder: Path, seconds: float = SECONDS
) -> Calibration:
    """The calibration of this shape on this machine: read from `folder`/calibration.json, or measured in about
    `seconds` and written there. The first rank reads and writes for all, whose folders may be on different hosts. A
    folder that cannot be written to only costs the next run that time. Neither the weights nor any random state
    change."""
    key, file = _key(model, data, conditions), folder / FILE
    kept = [_kept(file, key) if conditions.rank == 0 else None]
    if conditions.in_group:
        torch.distributed.broadcast_object_list(kept, src=0)
    if kept[0]:
        return kept[0]
    measured = measure(model, data, conditions, seconds)
    if conditions.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(conditions.device)
    if conditions.rank == 0:
        try:
            known = read_object(file) if file.exists() else {}
        except (OSError, DamagedFile):
            known = {}
        with contextlib.suppress(OSError):
            write_json(file, known | {key: asdict(measured)})
    return measured


def _kept(file: Path, key: str) -> Calibration | None:
    try:
        return Calibration(**read_object(file)[key])
    except (OSError, DamagedFile, KeyError, TypeError):
        return None


def measure(
    model: PreTrainedModel, data: OrderedBlocks, conditions: Conditions, seconds: float = SECONDS
) -> Calibration:
    """Times training steps on a copy of `model` for about `seconds`: real sequences, precision and micro-batch, and
    AdamW's update. Every rank measures at the same time, as all of them will train; the figures are those of the
    slowest."""
    device, began = conditions.device, time.monotonic()
    # A training forward holds its model's head: the copy needs one of its own.
    with_own_head = use_next_token_head if is_causal(model.config) else use_masked_only_head
    trained: Any = with_own_head(copy.deepcopy(model))
    trained.to(device).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, fused=device.type in ("cpu", "cuda"))
    cpu_state = torch.get_rng_state()
    gpu_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        with (saved := _SavedBytes(trained)):
            first = _timed(device, lambda: _forward(trained, data, 1, conditions, backward=True))
        over = began + seconds
        warm = first
        if first <= seconds / 4:
            warm = _timed(device, lambda: _forward(trained, data, 1, conditions, backward=True))
        left = over - time.monotonic()
        size = max(1, min(conditions.micro_batch, len(data), int(left / 4 / max(warm, 1e-4))))
        times = [warm] if size == 1 else []
        while not times or (len(times) < 5 and time.monotonic() < over - seconds / 2):
            times.append(_timed(device, lambda: _forward(trained, data, size, conditions, backward=True)) / size)
        usual = sorted(times)[len(times) // 2]
        updates = [_timed(device, lambda: _update(trained, optimizer, conditions))]
        while len(updates) < UPDATES and time.monotonic() < over - seconds / 2:
            updates.append(_timed(device, lambda: _update(trained, optimizer, conditions)))
        evaluation = usual / 3  # a forward pass has a third of a training step's FLOPs
        if conditions.evaluates and time.monotonic() < over - seconds / 4:
            trained.eval()
            evaluation = _timed(device, lambda: _forward(trained, data, size, conditions, backward=False)) / size
        reduce = 0.0
        if conditions.in_group:
            reduce = _timed(device, lambda: torch.distributed.all_reduce(_gradients(trained)))
    finally:
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, device)
    figures = [usual, min(times) / usual, max(times) / usual, evaluation, min(updates), reduce]
    if conditions.in_group:
        slowest = torch.tensor(figures, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
        figures = slowest.tolist()
    return Calibration(size, *figures, activation_bytes=saved.bytes)


def _forward(model, data: OrderedBlocks, size: int, conditions: Conditions, backward: bool) -> None:
    batch = {name: value.to(conditions.device) for name, value in data.__getitems__(range(size)).items()}
    half = torch.bfloat16 if conditions.bf16 else torch.float16
    precision = torch.autocast(conditions.device.type, half, conditions.bf16 or conditions.fp16)
    with torch.set_grad_enabled(backward), precision:
        loss = model(**batch)["loss"]
    if backward:
        (loss / size).backward()


def _update(model, optimizer: torch.optim.Optimizer, conditions: Conditions) -> None:
    if conditions.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), conditions.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def _gradients(model) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def _timed(device: torch.device, action) -> float:
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that a forward pass keeps for its backward pass, each storage once, the weights left out."""

    def __init__(self, model):
        self.bytes, self._seen = 0, {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _key(model: PreTrainedModel, data: OrderedBlocks, conditions: Conditions) -> str:
    """Names this machine and what is computed on it."""
    about = {
        "machine": [platform.node(), platform.machine(), _processor(), os.cpu_count(), torch.__version__],
        "device": torch.cuda.get_device_name(conditions.device)
        if conditions.device.type == "cuda"
        else conditions.device.type,
        "processes": [conditions.processes, torch.get_num_threads()],
        "model": {
            k: v for k, v in model.config.to_dict().items() if k not in ("transformers_version", "_name_or_path")
        },
        "batch": [
            conditions.micro_batch,
            data.length,
            data.count_predicted(data.length),
            type(data).__name__,
        ],
        "precision": [conditions.bf16, conditions.fp16],
    }
    return sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
