"""A few measured steps on this device before a run, cached per machine and shape: the basis of its planned time."""

import contextlib
import copy
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from recipe.data.blocks import OrderedBlocks
from recipe.model.config import is_causal
from recipe.model.heads import use_masked_only_head, use_next_token_head
from recipe.system.files import DamagedFile, read_object, write_json
from recipe.train.arguments import PretrainArguments

SECONDS = 10.0  # that a calibration may take; a step that takes longer is measured on fewer sequences
FILE = "calibration.json"
RUNS = 5  # of each part of a step that are timed, where there is time for them
TRAINING = 0.75  # share of a calibration's time for forward and backward passes
SHORT = 0.1  # and for each other part of a step
LEAST_SLOPE = 0.7  # less is noise


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
    """Seconds and bytes that one process measured, for the micro-batch of the run. `micro_batch` is the number of
    sequences that were timed together: those of the run, or as many as the time allowed."""

    micro_batch: int
    sequence_seconds: float  # forward and backward of a micro-batch of the run, per sequence
    fastest: float  # quartiles of the timed micro-batches, as shares of their median, sequence_seconds
    slowest: float
    evaluation_seconds: float  # forward alone, per sequence
    update_seconds: float  # clipping and optimizer, per step
    reduce_seconds: float  # reducing the gradients of all ranks, per step
    activation_bytes: float  # kept for the backward pass, per micro-batch


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
    """Times the parts of a training step on a copy of `model` for about `seconds`: real sequences, precision and
    micro-batch, and AdamW's update. Where a whole micro-batch would take too long, one sequence and as many as there is
    time for are extrapolated to it. Every rank measures at the same time, as all of them will train; the figures are
    those of the slowest."""
    device, over = conditions.device, time.monotonic() + seconds
    # A training forward holds its model's head: the copy needs one of its own.
    with_own_head = use_next_token_head if is_causal(model.config) else use_masked_only_head
    trained: Any = with_own_head(copy.deepcopy(model))
    trained.to(device).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, fused=device.type in ("cpu", "cuda"))
    cpu_state = torch.get_rng_state()
    gpu_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    kept = {}

    def train(sequences: int) -> None:
        with (saved := _SavedBytes(trained)):
            _forward(trained, data, sequences, conditions, backward=True)
        kept[sequences] = saved.bytes

    try:
        one = _times(lambda: train(1), conditions, SHORT * seconds)
        left = TRAINING * (over - time.monotonic())
        size = max(1, _least(round(min(conditions.micro_batch, len(data), left / 2 / min(one))), conditions))
        several = _times(lambda: train(size), conditions, left) if size > 1 else one
        updates = _times(lambda: _update(trained, optimizer, conditions), conditions, SHORT * seconds)
        reduced = [0.0]
        if conditions.in_group:
            gradients = _gradients(trained)
            reduced = _times(lambda: torch.distributed.all_reduce(gradients), conditions, SHORT * seconds)
        forward = [np.median(several) / 3]  # a forward pass has a third of a training step's FLOPs
        if conditions.evaluates and _least(int(time.monotonic() + np.median(several) < over), conditions):
            trained.eval()
            forward = _times(lambda: _forward(trained, data, size, conditions, False), conditions, SHORT * seconds)
    finally:
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, device)
    low, middle, high = np.quantile(several, (0.25, 0.5, 0.75))
    medians = [float(np.median(times)) for times in (one, several, forward, updates, reduced)]
    single, several, forward, update, reduce = _most(medians, conditions)
    return Calibration(
        micro_batch=size,
        sequence_seconds=_extrapolated(single, several, size, conditions.micro_batch) / conditions.micro_batch,
        fastest=float(low / middle),
        slowest=float(high / middle),
        evaluation_seconds=forward / size,
        update_seconds=update,
        reduce_seconds=reduce,
        activation_bytes=_extrapolated(kept[1], kept[size], size, conditions.micro_batch),
    )


def _extrapolated(single: float, several: float, size: int, micro_batch: int) -> float:
    """What `micro_batch` sequences take if one takes `single` and `size` take `several`: each further one takes the
    same, and at least LEAST_SLOPE of the mean."""
    mean = several / size
    each = mean if size == 1 else min(mean, max(LEAST_SLOPE * mean, (several - single) / (size - 1)))
    return several + each * (micro_batch - size)


def _times(action: Callable[[], object], conditions: Conditions, seconds: float) -> list[float]:
    """Seconds of each run of `action`, at least one and at most RUNS in about `seconds`, after one that isn't counted:
    it allocates memory. All ranks run it equally often, and begin each run together."""
    first = _timed(conditions.device, action)
    runs = _least(max(1, min(RUNS, int((seconds - first) / max(first, 1e-6)))), conditions)
    times = []
    for _ in range(runs):
        if conditions.in_group:
            torch.distributed.barrier()
        times.append(_timed(conditions.device, action))
    return times


def _least(number: int, conditions: Conditions) -> int:
    """The least of the ranks' numbers: they take collective steps equally often."""
    if not conditions.in_group:
        return number
    least = torch.tensor(number, device=conditions.device)
    torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
    return int(least)


def _most(figures: list[float], conditions: Conditions) -> list[float]:
    """Each of the figures of the rank where it is largest."""
    if not conditions.in_group:
        return figures
    most = torch.tensor(figures, dtype=torch.float64, device=conditions.device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return most.tolist()


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
            type(data).__name__ + (" by document" if data.document_end is not None else ""),
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
