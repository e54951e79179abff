"""The checkpoint that a run resumes from, and what it must hold for that: weights, optimizer, schedule, the random
state of every rank, and the trainer's state at that step.

recipe.model.checkpoints verifies that the files are as they were written, which is enough for evaluation.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerState
from transformers.trainer_pt_utils import safe_globals

from recipe.model.checkpoints import STATE, checkpoints, step_of
from recipe.model.weights import weights_fault
from recipe.system.errors import UserError
from recipe.system.files import DamagedFile, read_json, read_object
from recipe.system.manifest import MANIFEST, damage
from recipe.train.arguments import PretrainArguments
from recipe.train.deepspeed import optimizer_shards
from recipe.train.run_record import RECORD
from recipe.train.schedules import time_is_up

_RANDOM_STATE = re.compile(r"rng_state_(\d+)\.pth")


def checkpoint_to_resume(
    run: Path, model: PreTrainedModel, args: PretrainArguments, say: Callable[..., None]
) -> Path | None:
    """The checkpoint to resume from, or to evaluate: the one that --resume_from_checkpoint names, or the newest usable
    one; None where `run` has no checkpoints. Raises UserError where none of those it has is usable."""
    named, zero = args.resume_from_checkpoint, bool(args.deepspeed)
    if named and named not in ("True", "true"):
        return require_resumable(named, model, zero, say)
    checkpoint = newest_resumable(run, model, zero, say) if args.do_train else newest_evaluable(run, model, say)
    if checkpoint is None and checkpoints(run):
        raise UserError(f"none of the checkpoints in {run} is complete: move them away to start again from step 0")
    return checkpoint


def is_done(run: Path, checkpoint: Path, args: PretrainArguments) -> bool:
    """Whether a run has taken its last step, at `checkpoint`, and has written all its results."""
    written = (run / "train_results.json").exists() and (not args.do_eval or (run / "eval_results.json").exists())
    out_of_time = args.max_hours is not None and time_is_up(checkpoint, args.max_hours)
    return written and (step_of(checkpoint) >= args.max_steps or out_of_time)


def resume_fault(folder: Path, model: PreTrainedModel) -> str | None:
    """Why a run cannot be resumed from a checkpoint whose files verify, in a few words; None if it can."""
    return weights_fault(folder, model) or _fault_of_state(folder) or _fault_of_tensors(folder) or _fault_of_rng(folder)


def newest_resumable(run: Path, model: PreTrainedModel, zero: bool, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of `run` that can be resumed; `warn` gets a line about each newer one.

    Raises UserError if it was saved with DeepSpeed and `zero` is False, or the reverse.
    """
    for folder in reversed(checkpoints(run)):
        if reason := damage(folder):
            warn(f"warning: {folder} is damaged ({reason}): using the one before")
            continue
        require_same_engine(folder, zero)
        if (reason := resume_fault(folder, model)) is None:
            return folder
        warn(f"warning: {folder} cannot be resumed ({reason}): using the one before")
    return None


def require_resumable(named: str, model: PreTrainedModel, zero: bool, say: Callable[[str], None]) -> Path:
    """The checkpoint that --resume_from_checkpoint names. `say` gets a warning if there is no record of its run.

    Raises UserError if a run cannot be resumed from it.
    """
    folder = Path(named).expanduser()
    reason = damage(folder)
    if reason is None:
        require_same_engine(folder, zero)
        reason = resume_fault(folder, model)
    if reason:
        raise UserError(f"cannot resume from {named}: {reason}: leave the flag out to use the newest complete one")
    if not (folder.resolve().parent / RECORD).exists():
        say(f"warning: there is no {RECORD} beside {named}: its run's settings cannot be compared with this one's")
    return folder


def newest_evaluable(run: Path, model: PreTrainedModel, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of `run` with all of the model's weights, whatever else it lacks."""
    for folder in reversed(checkpoints(run)):
        if (reason := damage(folder) or weights_fault(folder, model)) is None:
            return folder
        warn(f"warning: {folder} is damaged ({reason}): using the one before")
    return None


def require_same_engine(folder: Path, zero: bool) -> None:
    """Raises UserError if a checkpoint was saved with DeepSpeed and `zero`, whether it is in use now, is False, or the
    reverse."""
    saved_by_zero = optimizer_shards(folder) > 0
    if zero and not saved_by_zero:
        raise UserError(f"{folder} was saved without DeepSpeed, now it is on: set DS_CONFIG= (no --deepspeed)")
    if saved_by_zero and not zero:
        raise UserError(f"{folder} was saved with DeepSpeed, now it is off: set DS_CONFIG (--deepspeed) as before")


def _fault_of_state(folder: Path) -> str | None:
    try:
        content = read_object(folder / STATE)
        state = TrainerState(**content)
    except FileNotFoundError:
        return f"it has no {STATE}"
    except DamagedFile as error:
        return f"{STATE} {error}"
    except TypeError:
        return f"{STATE} is not what a Trainer writes"
    expected = step_of(folder) if step_of(folder) >= 0 else state.global_step
    if type(state.global_step) is not int or state.global_step != expected:
        return f"{STATE} says step {state.global_step!r}"
    if not isinstance(state.log_history, list) or not all(isinstance(entry, dict) for entry in state.log_history):
        return f"{STATE} is not what a Trainer writes"
    callbacks = state.stateful_callbacks
    if not isinstance(callbacks, dict) or not all(isinstance(value, dict | list) for value in callbacks.values()):
        return f"{STATE} is not what a Trainer writes"
    return None


def _fault_of_tensors(folder: Path) -> str | None:
    """The fault of optimizer or schedule; DeepSpeed saves the optimizer in files of its own, one shard per rank."""
    if shards := optimizer_shards(folder):
        names = " ".join(file.name for file in folder.glob("global_step*/*_optim_states.pt"))
        numbers = set(map(int, re.findall(r"_pp_rank_(\d+)", names)))
        if numbers and numbers != set(range(shards)):
            return f"it has {shards} of the {max(numbers) + 1} shards of DeepSpeed's optimizer"
        return None
    names = ("optimizer.pt", "scheduler.pt")
    if missing := [name for name in names if not (folder / name).exists()]:
        return f"it has no {' and no '.join(missing)}: it can be evaluated, not resumed"
    return next((reason for name in names if (reason := _fault_of_file(folder / name))), None)


def _fault_of_file(file: Path) -> str | None:
    """Why torch can't read a dictionary from `file`, None if it can; the tensors aren't read."""
    try:
        with safe_globals():
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # from zipfile, pickle, torch or the system
        return f"{file.name} is unreadable"
    return None if isinstance(content, dict) else f"{file.name} is not what a Trainer writes"


def _fault_of_rng(folder: Path) -> str | None:
    """The fault of the random states: there must be one per rank, and the manifest has their number."""
    saved = {int(found[1]): path for path in folder.iterdir() if (found := _RANDOM_STATE.fullmatch(path.name))}
    ranks = (read_json(folder / MANIFEST) or {}).get("ranks", max(2, len(saved)) if saved else 1)
    if ranks == 1:
        files = [folder / "rng_state.pth"]
    else:
        files = [folder / f"rng_state_{rank}.pth" for rank in range(ranks)]
    for file in files:
        if not file.is_file():
            return f"it has no {file.name}, the random state of {'its process' if ranks == 1 else 'a rank'}"
        if reason := _fault_of_file(file):
            return reason
    return None
