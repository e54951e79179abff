"""Resume of a fine-tuning: finds the checkpoint to start from and checks that it belongs to the same run."""

from collections.abc import Callable
from pathlib import Path

from recipe.finetune.arguments import SETTINGS
from recipe.finetune.finetuning import FineTuning
from recipe.system.errors import UserError
from recipe.train.arguments import sequences_per_step
from recipe.train.callbacks import FirstStep
from recipe.train.resume import newest_resumable, require_resumable
from recipe.train.run_record import build_record, require_identical_ranks, write_record


def start_or_resume(tuning: FineTuning, data_settings: dict, say: Callable[..., None]) -> str | None:
    """The checkpoint to resume from: the one that --resume_from_checkpoint names, else the newest complete one in the
    output folder if checkpoints are saved there. None to start at step 1.

    `data_settings` and the training settings form the resume signature, which must equal that of the checkpoint's run.
    If checkpoints are saved, it is written to run.json after the first step. Raises UserError if the signatures differ
    or the checkpoint cannot be resumed from.
    """
    args, folder = tuning.args, Path(tuning.args.output_dir)
    saves, named = args.save_strategy != "no", args.resume_from_checkpoint
    signature = data_settings | {name: getattr(args, name) for name in SETTINGS.split()}
    signature |= {
        "checkpoint": tuning.origin.sha256 or tuning.origin.name,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "global_batch_size": sequences_per_step(args),
        "optim": str(getattr(args.optim, "value", args.optim)),
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
    }
    require_identical_ranks(signature)
    checkpoint, model, zero = None, tuning.trainer.model, bool(args.deepspeed)
    if named and named not in ("True", "true"):
        checkpoint = require_resumable(named, model, zero, say)
    elif saves or named:
        checkpoint = newest_resumable(folder, model, zero, say)
        if named and checkpoint is None:
            raise UserError(f"found no complete checkpoint in {folder}: leave --resume_from_checkpoint out")
    if saves or checkpoint:
        record = build_record(folder, signature, {}, args.allow_changed, checkpoint)
        if saves:
            tuning.trainer.add_callback(FirstStep(lambda: write_record(folder, record)))
    if checkpoint:
        say(f"resuming from {checkpoint}")
    return str(checkpoint) if checkpoint else None
