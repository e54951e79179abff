"""Tokenised examples of a task: made once for a tokenizer and kept on disk, batched with others of like length.

A run is a list of optimizer steps and each step a list of examples; how a step is cut into micro-batches decides
nothing but memory (law 1).
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
IGNORED = -100  # the label of a row that only fills a rank's micro-batch
# Examples are sorted by length within pools of this many steps: enough that a batch is nearly all of one length
# (padding under 2 % on SST-2), few enough that an epoch stays well mixed.
POOL_STEPS = 50


class Examples(Dataset):
    """Examples of one split; indexed by lists of rows, each giving one batch padded to its longest example.

    A batch holds input_ids [batch, longest], attention_mask only if something is padded, token_type_ids if the model
    has more than one type, and labels [batch] or [batch, n] (int64 classes or float32 scores; IGNORED for the row -1).
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
        """The ids of one example, its begin and end tokens included."""
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
    """The arrays of `rows`: `ids` and `types` of all examples end to end, and `ends`, where each ends.

    Pairs are cut from their longer text until they fit `max_length` tokens. Kept under `cache` by what decides the
    result, tokenizer, texts and length, so that all checkpoints of a tokenizer share it.
    """
    key = hashlib.sha256(f"{FORMAT} {fingerprint(tokenizer)} {rows.digest} {max_length}".encode()).hexdigest()[:32]
    return cached_arrays(cache / f"{key}.safetensors", lambda: _encode(rows, tokenizer, max_length), overwrite)


def cached_arrays(
    file: Path, make: Callable[[], dict[str, np.ndarray]], overwrite: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of `file`, which `make` gives where it isn't there, is damaged, or `overwrite` asks for it; of several
    processes one makes it and the others wait. Written whole or not at all."""
    if not overwrite and (arrays := _stored(file)):
        return arrays
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if overwrite or not (arrays := _stored(file)):
            arrays = make()
            if not file.is_file():  # a folder or a link that leads nowhere bears its name
                remove(file)
            with atomic_output(file) as partial:
                save_file(arrays, partial, metadata={"sha256": _sha256(arrays)})
    return arrays


def _stored(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays that `kept` stored, None where there are none or they aren't as they were: they are made again."""
    try:
        with safe_open(file, "numpy") as stored:
            written = (stored.metadata() or {}).get("sha256")
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):
        return None
    return arrays if written == _sha256(arrays) else None


def _sha256(arrays: dict[str, np.ndarray]) -> str:
    """sha256 of names, types, shapes and contents."""
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
    """The rows of each optimizer step of one epoch: every row exactly once, the last step maybe shorter.

    A function of its arguments alone. Rows are shuffled, sorted by length within pools of POOL_STEPS steps, cut, and
    the steps shuffled again, so that length says nothing about the place in the epoch.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(lengths))
    pool = POOL_STEPS * batch_size
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    ordered = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in pools])
    steps = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [steps[place] for place in generator.permutation(len(steps))]


class FineTuneBatches(Sampler[list[int]]):
    """The micro-batches of one rank over a whole run of `steps` optimizer steps, each a list of rows.

    Whatever the cut, a step holds the same rows. A step that is too short to go round leaves some micro-batches with
    one row -1, which `Examples` gives the label IGNORED. Iteration starts at the step that `start` returns.
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
        self.steps_an_epoch = -(-len(lengths) // self.batch_size)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        epoch, steps = -1, []
        for step in range(self.start(), self.steps):
            if step // self.steps_an_epoch != epoch:
                epoch = step // self.steps_an_epoch
                steps = steps_of_epoch(self.lengths, self.batch_size, self.seed, epoch)
            rows = steps[step % self.steps_an_epoch].tolist()
            for micro_step in range(self.accumulation):
                first = (micro_step * self.ranks + self.rank) * self.micro_batch
                yield rows[first : first + self.micro_batch] or [-1]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """Every row once, longest first: the first batch shows at once whether memory is enough."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
