"""Tokenised examples of a task: cached on disk per tokenizer, in batches of similar length.

A run is a list of optimizer steps, and each step a list of examples. How a step is split into micro-batches affects
memory only (invariant 1).
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from recipe.data.token_arrays import token_dtype
from recipe.data.tokenizer import fingerprint, plain_backend
from recipe.finetune.glue.rows import Rows
from recipe.system.files import atomic_output, remove

FORMAT = "1"  # raise it when the meaning of the cached arrays changes
IGNORED = -100  # label of a row that only pads a rank's micro-batch: the ignore_index of PyTorch's cross-entropy
# Examples are sorted by length within pools of this many steps: enough for batches of nearly equal length (padding
# under 2 % on SST-2), few enough for a well-shuffled epoch.
POOL_STEPS = 50


class Examples(Dataset):
    """Examples of one split. A list of rows gives one batch, padded to its longest example.

    A batch has input_ids [batch, longest], attention_mask if anything is padded, token_type_ids if the model has more
    than one type, and labels [batch] or [batch, n]: int64 classes or float32 scores, IGNORED for row -1.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        labels: list | np.ndarray | None,
        *,
        pad_id: int,
        regression: bool,
        token_types: bool,
        pad_to: int | None = None,
    ):
        self.ids, self.types, self.ends = arrays["ids"], arrays["types"], arrays["ends"]
        self.lengths = np.diff(self.ends, prepend=0)
        kind = np.float32 if regression else np.int64
        self.labels = None if labels is None else np.asarray(labels, dtype=kind)
        self.pad_id, self.token_types, self.pad_to = pad_id, token_types, pad_to

    def __len__(self) -> int:
        return len(self.ends)

    def row(self, index: int) -> np.ndarray:
        """Token ids of one example, special tokens included."""
        return self.ids[self.ends[index] - self.lengths[index] : self.ends[index]]

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        width = self.pad_to or max(int(self.lengths[row]) for row in rows)
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        types = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            end, length = self.ends[row], self.lengths[row]
            ids[place, :length] = self.ids[end - length : end]
            types[place, :length] = self.types[end - length : end]
            mask[place, :length] = 1
        batch: dict[str, np.ndarray] = {"input_ids": ids}
        if not mask.all():
            batch["attention_mask"] = mask
        if self.token_types:
            batch["token_type_ids"] = types
        if self.labels is not None:
            batch["labels"] = self.labels[rows]  # a copy
            batch["labels"][np.array(rows) < 0] = IGNORED
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([row])


def tokenise(
    rows: Rows, tokenizer: PreTrainedTokenizerFast, max_length: int, cache: Path, overwrite: bool = False
) -> dict[str, np.ndarray]:
    """Tokenises `rows` into arrays: `ids` and `types` [tokens] of all examples concatenated, `ends` [rows] where each
    ends.

    Pairs are truncated at the longer text until they fit `max_length` tokens. Cached under `cache` by tokenizer, texts
    and length, so that all checkpoints with one tokenizer share the file.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(tokenizer)} {rows.digest} {max_length}".encode()).hexdigest()[:32]
    return cached_arrays(cache / f"{key}.safetensors", lambda: _encode(rows, tokenizer, max_length), overwrite)


def cached_arrays(
    file: Path, make: Callable[[], dict[str, np.ndarray]], overwrite: bool = False
) -> dict[str, np.ndarray]:
    """Loads the arrays of `file`. If it is missing or damaged, or with `overwrite`, `make` computes them and they are
    written atomically; of several processes one computes them and the others wait."""
    if not overwrite and (arrays := _load(file)):
        return arrays
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if overwrite or not (arrays := _load(file)):
            arrays = make()
            if not file.is_file():  # a folder or a dangling link of that name
                remove(file)
            with atomic_output(file) as partial:
                save_file(arrays, partial, metadata={"sha256": _sha256(arrays)})
    return arrays


def _load(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None if it is missing, unreadable or fails its checksum."""
    try:
        with safe_open(file, "numpy") as stored:
            written = (stored.metadata() or {}).get("sha256")
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None
    return arrays if written == _sha256(arrays) else None


def _sha256(arrays: dict[str, np.ndarray]) -> str:
    """sha256 of the names, dtypes, shapes and contents of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _encode(rows: Rows, tokenizer: PreTrainedTokenizerFast, max_length: int) -> dict[str, np.ndarray]:
    backend = plain_backend(tokenizer)
    backend.enable_truncation(max_length, strategy="longest_first")
    texts = list(zip(*rows.texts, strict=True)) if len(rows.texts) == 2 else rows.texts[0]
    encodings = backend.encode_batch_fast(texts)
    return {
        "ids": np.fromiter((i for e in encodings for i in e.ids), dtype=token_dtype(len(tokenizer))),
        "types": np.fromiter((t for e in encodings for t in e.type_ids), dtype=np.uint8),
        "ends": np.cumsum([len(e.ids) for e in encodings], dtype=np.int64),
    }


def steps_of_epoch(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of each optimizer step of one epoch: every row exactly once; one step may be shorter.

    A pure function of its arguments. Rows are shuffled, sorted by length within pools of POOL_STEPS steps and split
    into steps, which are shuffled again, so that length doesn't depend on the position in the epoch.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(lengths))
    pool = POOL_STEPS * batch_size
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    ordered = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in pools])
    steps = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [steps[number] for number in generator.permutation(len(steps))]


class FineTuneBatches(Sampler[list[int]]):
    """The micro-batches of one rank over a run of `steps` optimizer steps, each a list of rows.

    A step has the same rows whatever the micro-batch size, accumulation and number of ranks. A micro-batch for which a
    short step has no rows left is [-1], which `Examples` labels IGNORED. Iteration starts at the step that `start`
    returns, so that a resumed run seeks instead of skipping batches.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        steps: int,
        micro_batch: int,
        accumulation: int,
        rank: int,
        ranks: int,
        seed: int,
        start: Callable[[], int],
    ):
        self.lengths, self.steps, self.seed, self.start = lengths, steps, seed, start
        self.micro_batch, self.accumulation, self.rank, self.ranks = micro_batch, accumulation, rank, ranks
        self.batch_size = micro_batch * accumulation * ranks
        self.steps_per_epoch = -(-len(lengths) // self.batch_size)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        epoch, steps = -1, []
        for step in range(self.start(), self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                steps = steps_of_epoch(self.lengths, self.batch_size, self.seed, epoch)
            rows = steps[step % self.steps_per_epoch].tolist()
            for micro_step in range(self.accumulation):
                first = (micro_step * self.ranks + self.rank) * self.micro_batch
                yield rows[first : first + self.micro_batch] or [-1]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """Batches of rows, every row once, longest first: if memory is insufficient, the first batch fails."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
