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


def calibrated(model: PreTrainedModel, data: OrderedBlocks, args: PretrainArguments, folder: Path) -> Calibration:
    """The calibration of this run's shape on this machine: read from `folder`/calibration.json, or measured and written
    there. A folder that cannot be written to only costs the next run its ten seconds. Neither the weights nor any
    random state change."""
    key, file = _key(model, data, args), folder / FILE
    try:
        return Calibration(**read_object(file)[key])
    except (OSError, DamagedFile, KeyError, TypeError):
        pass
    measured = measure(model, data, args, args.do_eval)
    if args.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(args.device)
    if args.process_index == 0:
        try:
            known = read_object(file) if file.exists() else {}
        except (OSError, DamagedFile):
            known = {}
        with contextlib.suppress(OSError):
            write_json(file, known | {key: asdict(measured)})
    return measured


def measure(model: PreTrainedModel, data: OrderedBlocks, args: PretrainArguments, evaluates: bool) -> Calibration:
    """Times training steps on a copy of `model`: real sequences, precision and micro-batch, and AdamW's update. Every
    rank measures at the same time, as all of them will train; the figures are those of the slowest."""
    device, began = args.device, time.monotonic()
    # A training forward holds its model's head: the copy needs one of its own.
    with_own_head = use_next_token_head if is_causal(model.config) else use_masked_only_head
    trained = with_own_head(copy.deepcopy(model)).to(device).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.0, fused=device.type in ("cpu", "cuda"))
    cpu_state = torch.get_rng_state()
    gpu_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        with (saved := _SavedBytes(trained)):
            first = _timed(device, lambda: _forward(trained, data, 1, args, backward=True))
        over = began + SECONDS
        warm = first if first > SECONDS / 4 else _timed(device, lambda: _forward(trained, data, 1, args, backward=True))
        left = over - time.monotonic()
        size = max(1, min(args.per_device_train_batch_size, len(data), int(left / 4 / max(warm, 1e-4))))
        times = [warm] if size == 1 else []
        while not times or (len(times) < 5 and time.monotonic() < over - SECONDS / 2):
            times.append(_timed(device, lambda: _forward(trained, data, size, args, backward=True)) / size)
        usual = sorted(times)[len(times) // 2]
        updates = [_timed(device, lambda: _update(trained, optimizer, args))]
        while len(updates) < UPDATES and time.monotonic() < over - SECONDS / 2:
            updates.append(_timed(device, lambda: _update(trained, optimizer, args)))
        evaluation = usual / 3  # a forward pass has a third of a training step's FLOPs
        if evaluates and time.monotonic() < over - SECONDS / 4:
            trained.eval()
            evaluation = _timed(device, lambda: _forward(trained, data, size, args, backward=False)) / size
        reduce = _timed(device, lambda: torch.distributed.all_reduce(_gradients(trained))) if _in_group(args) else 0.0
    finally:
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, device)
    figures = [usual, min(times) / usual, max(times) / usual, evaluation, min(updates), reduce]
    if _in_group(args):
        slowest = torch.tensor(figures, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
        figures = slowest.tolist()
    return Calibration(size, *figures, activation_bytes=saved.bytes)


def _in_group(args: PretrainArguments) -> bool:
    return args.world_size > 1 and torch.distributed.is_initialized()


def _forward(model, data: OrderedBlocks, size: int, args: PretrainArguments, backward: bool) -> None:
    batch = {name: value.to(args.device) for name, value in data.__getitems__(range(size)).items()}
    precision = torch.autocast(args.device.type, torch.bfloat16 if args.bf16 else torch.float16, args.bf16 or args.fp16)
    with torch.set_grad_enabled(backward), precision:
        loss = model(**batch)["loss"]
    if backward:
        (loss / size).backward()


def _update(model, optimizer: torch.optim.Optimizer, args: PretrainArguments) -> None:
    if args.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
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


def _key(model: PreTrainedModel, data: OrderedBlocks, args: PretrainArguments) -> str:
    """Names this machine and what is computed on it."""
    about = {
        "machine": [platform.node(), platform.machine(), _processor(), os.cpu_count(), torch.__version__],
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": [args.world_size, torch.get_num_threads()],
        "model": {
            k: v for k, v in model.config.to_dict().items() if k not in ("transformers_version", "_name_or_path")
        },
        "batch": [
            args.per_device_train_batch_size,
            data.length,
            data.count_predicted(data.length),
            type(data).__name__,
        ],
        "precision": [args.bf16, args.fp16],
    }
    return sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
