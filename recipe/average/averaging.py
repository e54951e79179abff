"""A checkpoint whose weights are the mean of several checkpoints of a run (Izmailov et al., 2018, arXiv:1803.05407), or
the moving average that a run with --ema_decay kept.

    python -m recipe.average runs/NAME --last 5       runs/NAME-last5/checkpoint-N

    python -m recipe.average runs/NAME --last 5 --each

    python -m recipe.average runs/NAME --ema          runs/NAME-ema/checkpoint-N

    python -m recipe.average runs/a/checkpoint-5 runs/a/checkpoint-9 \\
        --output_dir runs/b

What it writes has weights, config, tokenizer, manifest and card like any checkpoint, and is scored like one, with
RUN=runs/NAME-last5. It has no optimizer: a run cannot be resumed from it, but can start from it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recipe.cli.parser import option, parse
from recipe.model.checkpoints import STAGING, STATE, checkpoints, commit, require_disk_space, step_of
from recipe.system.errors import UserError
from recipe.system.files import read_json, remove, write_json
from recipe.system.manifest import MANIFEST, damage
from recipe.system.progress import track
from recipe.train.ema import EMA
from recipe.train.model_card import AVERAGE, run_folder, write_pretraining_card
from recipe.train.run_record import PLAN, RECORD

WEIGHTS = "model.safetensors"
COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
          "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")  # fmt: skip


@dataclass
class AverageArguments:
    """Which weights are averaged, and where the result goes."""

    last: int = option(5, "Average the last N checkpoints of the run.")
    each: bool = option(False, "Not only at the last checkpoint: at each that has enough before it.")
    ema: bool = option(False, "The moving average that the run kept (--ema_decay), in place of a mean.")
    output_dir: str | None = option(None, "Folder for the checkpoints; by default RUN-lastN or RUN-ema.")

    def __post_init__(self):
        if self.last < 2:
            raise UserError(f"found --last {self.last}, expected 2 checkpoints or more")


@dataclass(frozen=True)
class Average:
    """One checkpoint to write: the mean of `parts`, the last of which gives step, config and tokenizer; with `ema`, of
    one part the moving average."""

    parts: tuple[Path, ...]
    ema: bool = False

    @property
    def newest(self) -> Path:
        """The part whose step, config and tokenizer it has."""
        return self.parts[-1]

    @property
    def sentence(self) -> str:
        """What its weights are, for its card."""
        names = [part.name for part in self.parts]
        if self.ema:
            return f"Its weights are the exponential moving average of those up to {names[0]}."
        return f"Its weights are the mean of those of {', '.join(names[:-1])} and {names[-1]}."


def planned(sources: list[Path], options: AverageArguments) -> list[Average]:
    """The checkpoints to write. Raises UserError for folders that aren't there, are damaged, too few, or of models that
    have no mean."""
    run = sources[0]
    if len(sources) == 1 and step_of(run) < 0:
        found = checkpoints(run) if run.is_dir() else []
        if not found:
            raise UserError(f"found no checkpoints in {run}: expected the folder of a run, or two checkpoints or more")
        count = 1 if options.ema else options.last
        if len(found) < count:
            raise UserError(f"found {len(found)} checkpoints in {run}, expected {count} or more: lower --last")
        ends = range(count, len(found) + 1) if options.each else [len(found)]
        averages = [Average(tuple(found[end - count : end]), options.ema) for end in ends]
    elif options.ema or options.each:
        flag = "--ema" if options.ema else "--each"
        raise UserError(f"found {flag} and checkpoints, expected the folder of one run")
    elif len(sources) == 1:
        raise UserError(f"found {run} alone, expected two checkpoints or more, or the folder of their run")
    else:
        averages = [Average(tuple(sources))]
    for folder in dict.fromkeys(part for average in averages for part in average.parts):
        _require_usable(folder, options.ema)
    for average in averages:
        for other in average.parts[:-1]:
            _require_alike(average.newest, other)
    return averages


def _require_usable(folder: Path, ema: bool) -> None:
    if ((folder / MANIFEST).exists() or step_of(folder) >= 0) and (reason := damage(folder)):
        raise UserError(f"{folder} is damaged or incomplete: {reason}: leave it out, or lower --last")
    needed = EMA if ema else WEIGHTS
    if not (folder / needed).is_file():
        remedy = "train with --ema_decay 0.999" if ema else "expected checkpoints, or folders of models"
        raise UserError(f"found no {needed} in {folder}: {remedy}")


def _require_alike(first: Path, second: Path) -> None:
    """Raises UserError where two folders hold different models or tokenizers, whose mean is no model."""
    differs = "expected checkpoints of one run: average those"
    configs = [read_json(folder / "config.json") or {} for folder in (first, second)]
    for name in dict.fromkeys([*configs[0], *configs[1]]):
        values = [config.get(name) for config in configs]
        if values[0] != values[1] and name not in ("transformers_version", "dtype", "torch_dtype"):
            raise UserError(f"{first} has {name} {values[0]}, {second} has {values[1]}: {differs}")
    if _shapes(first) != _shapes(second):
        raise UserError(f"{first} and {second} have other weights: {differs}")
    tokenizers = [(folder / "tokenizer.json") for folder in (first, second)]
    if all(file.is_file() for file in tokenizers) and tokenizers[0].read_bytes() != tokenizers[1].read_bytes():
        raise UserError(f"{first} and {second} have other tokenizers: {differs}")


def _shapes(folder: Path) -> dict[str, tuple]:
    with safe_open(folder / WEIGHTS, "pt") as stored:
        return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118


def mean_of(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """The mean of the tensors of several files, summed in fp64, in the precision of the last file; whole numbers are
    those of the last."""
    with torch.no_grad():
        newest = load_file(files[-1])
        sums = {name: tensor.double() for name, tensor in newest.items() if tensor.is_floating_point()}
        for file in files[:-1]:
            with safe_open(file, "pt") as stored:
                for name, total in sums.items():
                    total += stored.get_tensor(name).double()
        return {
            name: (sums[name] / len(files)).to(tensor.dtype) if name in sums else tensor
            for name, tensor in newest.items()
        }


def write_average(average: Average, folder: Path) -> Path:
    """Writes `folder`/checkpoint-N, whole or not at all, and returns it. N is the step of the newest part."""
    newest = average.newest
    step = step_of(newest)
    state = read_json(newest / STATE) or {}
    step = state.get("global_step", 0) if step < 0 else step
    staged, final = folder / STAGING / f"checkpoint-{step}", folder / f"checkpoint-{step}"
    remove(folder / STAGING)
    staged.mkdir(parents=True)
    weights = load_file(newest / EMA) if average.ema else mean_of(tuple(part / WEIGHTS for part in average.parts))
    save_file(weights, staged / WEIGHTS, metadata={"format": "pt"})
    for name in COPIED:
        if (newest / name).is_file():
            shutil.copy(newest / name, staged / name)
    seen = [entry for entry in state.get("log_history", []) if isinstance(entry, dict) and "tokens_seen" in entry][-1:]
    history = [{"step": entry.get("step"), "tokens_seen": entry["tokens_seen"]} for entry in seen]
    counted = {"global_step": step, "num_input_tokens_seen": state.get("num_input_tokens_seen", 0)}
    write_json(staged / STATE, counted | {"log_history": history})
    parts = [str(part) for part in average.parts]
    write_json(staged / AVERAGE, {"sentence": average.sentence, "ema": average.ema, "checkpoints": parts})
    commit(staged, final)
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    write_pretraining_card(final)
    return final


def main() -> int:
    options, (given,) = parse((AverageArguments,), description=__doc__, positional=("RUN...",))
    sources = [Path(name).expanduser() for name in given]
    averages = planned(sources, options)
    if options.output_dir is None and len(sources) > 1:
        raise UserError("found several checkpoints and no --output_dir: name a folder for their mean")
    run = sources[0]
    kind = "ema" if options.ema else f"last{options.last}"
    folder = Path(options.output_dir or f"{run.resolve().parent / run.resolve().name}-{kind}").expanduser()
    if folder.resolve() in {run_folder(source) for source in sources}:
        raise UserError(f"found {folder} as the run and as where its averages go: name another --output_dir")
    require_disk_space(folder, len(averages) * (averages[0].newest / WEIGHTS).stat().st_size)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RECORD, PLAN):  # what the weights were trained on, for cards and tables
        if (origin := run_folder(averages[-1].newest) / name).is_file():
            shutil.copy(origin, folder / name)
    for average in track(averages, "averaging", len(averages), "checkpoints"):
        print(f"{write_average(average, folder)}: {average.sentence[0].lower()}{average.sentence[1:]}")
    return 0
