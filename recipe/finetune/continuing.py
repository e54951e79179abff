"""Where a fine-tuning begins: at its first step, or at a checkpoint of the same fine-tuning."""

from collections.abc import Callable
from pathlib import Path

from recipe.finetune.arguments import SETTINGS
from recipe.finetune.finetuning import FineTuning
from recipe.system.errors import UserError
from recipe.train.arguments import sequences_per_step
from recipe.train.callbacks import FirstStep
from recipe.train.resume import newest_resumable, require_resumable
from recipe.train.run_record import build_record, require_identical_ranks, write_record


def begin_or_continue(work: FineTuning, of_the_data: dict, say: Callable[..., None]) -> str | None:
    """The checkpoint to continue from, None for a beginning. Where checkpoints are saved, run.json is written with the
    first step.

    It is the checkpoint that --resume_from_checkpoint names, or the newest whole one of the output folder, if any are
    saved there. `of_the_data` are the settings of the data that decide what is computed; together with those of the
    training they must be as they were in the run that the checkpoint belongs to. Raises UserError where they aren't, or
    where a checkpoint cannot be continued.
    """
    args, folder = work.args, Path(work.args.output_dir)
    saves, named = args.save_strategy != "no", args.resume_from_checkpoint
    meaning = of_the_data | {name: getattr(args, name) for name in SETTINGS.split()}
    meaning |= {
        "checkpoint": work.origin.sha256 or work.origin.name,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "global_batch_size": sequences_per_step(args),
        "optim": str(getattr(args.optim, "value", args.optim)),
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
    }
    require_identical_ranks(meaning)
    checkpoint, model, zero = None, work.trainer.model, bool(args.deepspeed)
    if named and named not in ("True", "true"):
        checkpoint = require_resumable(named, model, zero, say)
    elif saves or named:
        checkpoint = newest_resumable(folder, model, zero, say)
        if named and checkpoint is None:
            raise UserError(f"found no whole checkpoint in {folder} to resume from: leave --resume_from_checkpoint out")
    if saves or checkpoint:
        record = build_record(folder, meaning, {}, args.allow_changed, checkpoint)
        if saves:
            work.trainer.add_callback(FirstStep(lambda: write_record(folder, record)))
    if checkpoint:
        say(f"continuing from {checkpoint}")
    return str(checkpoint) if checkpoint else None
