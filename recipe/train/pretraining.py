"""One pre-training run, from its record over training and evaluation to the files it leaves behind."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.data.prepared_tokens import PreparedTokens
from recipe.data.tokenizer import block_ends, fingerprint
from recipe.model.checkpoints import checkpoints, require_room, step_of
from recipe.model.config import (
    is_causal,
)
from recipe.objective.unigram import UnigramBaseline
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, UserError
from recipe.system.paths import ROOT
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.callbacks import (
    Console,
    EpochEnds,
    FirstStep,
    JsonLog,
    PlainConsole,
    Progress,
    RankSeed,
    SaveAt,
    StopSignals,
)
from recipe.train.describe import describe
from recipe.train.model_card import write_run_card
from recipe.train.resume import newest_evaluable, newest_resumable, require_resumable
from recipe.train.run_folder import run_lock
from recipe.train.run_record import build_record, require_identical_ranks, write_record
from recipe.train.saving import CHECKPOINT_BYTES_PER_PARAMETER
from recipe.train.schedules import time_is_up
from recipe.train.sequences import Sequences
from recipe.train.trackers import continue_wandb_run, guard_trackers
from recipe.train.trainer import NonFiniteError, PretrainTrainer

CONFIGS = ROOT / "configs"
# The settings of TrainingArguments that decide what a run computes.
DECIDING = (
    "seed data_seed max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon optim_args max_grad_norm bf16 fp16 "
    "short_seq_length short_seq_share batch_warmup_start batch_warmup_steps max_hours"
)


def resume_signature(config, data, args, prepared, tokenizer, objective: dict) -> dict:
    """The settings that decide what a run computes: they may not change when it is resumed."""
    return {
        **objective,
        "model": {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "dtype")},
        "data": prepared.fingerprint,
        "tokenizer": fingerprint(tokenizer),
        "max_seq_length": data.max_seq_length,
        "max_train_samples": data.max_train_samples,
        "global_batch_size": sequences_per_step(args),
        **{name: getattr(args, name) for name in DECIDING.split()},
        "optim": str(args.optim.value if hasattr(args.optim, "value") else args.optim),
    }


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prepared: PreparedTokens,
    sequences: Sequences,
    args: PretrainArguments,
    meaning: dict,
    report: Callable,
    say: Callable[..., None],
    fresh: bool,
) -> int:
    """Trains and evaluates in args.output_dir, from the newest whole checkpoint if there is one; returns the exit code.

    `meaning` is what may not change on resume; `report(metrics, model, tokenizer, evaluation data, run)` ends the run
    on the console. `fresh` says that the model's weights were just drawn: they alone are not worth an evaluation.
    """
    run, main_process = Path(args.output_dir), args.process_index == 0
    if not (args.do_train or args.do_eval):
        say(model.config.to_json_string(), end="")
        say(
            f"found neither --do_train nor --do_eval: a {model.config.model_type} model of {model.num_parameters():,} "
            "parameters was built, and nothing else is done"
        )
        return 0
    require_room(run, CHECKPOINT_BYTES_PER_PARAMETER * model.num_parameters())
    require_identical_ranks(meaning)
    with run_lock(run) if main_process else nullcontext():
        checkpoint = checkpoint_to_resume(run, model, args, say)
        record = build_record(run, meaning, args.to_sanitized_dict(), args.allow_changed, checkpoint)
        if main_process and "wandb" in args.report_to:
            continue_wandb_run(record["wandb_run_id"])
        if args.do_train and checkpoint and is_done(run, checkpoint, args):
            say(f"{run} is done: {step_of(checkpoint)} steps, {checkpoint}. For another run choose another OUTPUT_DIR.")
            return 0
        describe(say, model, prepared, sequences.train, sequences.stages, args, tokenizer)

        # A causal model predicts where documents end, a masked one no special token.
        predicted = {block_ends(tokenizer)[1]} if is_causal(model.config) else set()
        tokens_an_epoch = len(sequences.train) * sequences.train.length
        stop = StopSignals()
        trainer = PretrainTrainer(
            model=model,
            args=args,
            train_dataset=sequences.train,
            short_dataset=sequences.short,
            eval_dataset=sequences.evaluation,
            stages=sequences.stages,
            processing_class=tokenizer,
            baseline=UnigramBaseline(prepared.unigram_counts(), tuple(set(tokenizer.all_special_ids) - predicted)),
            callbacks=[
                Progress(sequences.stages, tokens_an_epoch),
                RankSeed(),
                SaveAt(args.save_at),
                EpochEnds(args, sequences.stages, tokens_an_epoch),
                FirstStep(lambda: write_record(run, record)),
                JsonLog(run / "log.jsonl"),
                stop,
            ],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Console if sys.stderr.isatty() and not args.disable_tqdm else PlainConsole)
        guard_trackers(trainer)
        if args.do_train:
            try:
                result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except NonFiniteError as error:
                say(f"error: {error}", file=sys.stderr)
                return NONFINITE_EXIT_CODE
            if stop.received and not trainer.is_over():
                step = trainer.state.global_step
                say(f"stopped by {stop.received.name} after step {step}, saved in {run}/checkpoint-{step}: run again")
                return INTERRUPTED_EXIT_CODE
            (run / "eval_results.json").unlink(missing_ok=True)  # of a run with fewer steps, if there is one
            trainer.save_model()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(sequences.train)})
            trainer.save_state()
        elif checkpoint:
            trainer._load_from_checkpoint(str(checkpoint))
            say(f"evaluating {checkpoint}")
        elif fresh:
            raise UserError(f"found no checkpoint in {run} to evaluate: pass --do_train or --model_name_or_path")
        if args.do_train and not args.do_eval and main_process:
            write_run_card(run, is_causal(model.config))
        if args.do_eval:
            if main_process and not args.do_train:
                write_record(run, record)
            metrics = trainer.evaluate()
            if main_process and args.do_train:
                write_run_card(run, is_causal(model.config), metrics)
            # By these names, too, the example scripts' results have them.
            metrics |= {"perplexity": metrics["eval_perplexity"], "eval_samples": len(sequences.evaluation)}
            trainer.save_metrics("eval", metrics)
            if main_process:
                report(metrics, model, tokenizer, sequences.evaluation, run)
    return 0


def is_done(run: Path, checkpoint: Path, args: PretrainArguments) -> bool:
    """Whether the last step was taken and everything after it was written, too."""
    written = (run / "train_results.json").exists() and (not args.do_eval or (run / "eval_results.json").exists())
    out_of_time = args.max_hours is not None and time_is_up(checkpoint, args.max_hours)
    return written and (step_of(checkpoint) >= args.max_steps or out_of_time)


def checkpoint_to_resume(
    run: Path, model: PreTrainedModel, args: PretrainArguments, say: Callable[..., None]
) -> Path | None:
    """The checkpoint to go on from, or to evaluate: the one that --resume_from_checkpoint names, or the newest that has
    what it takes."""
    named, zero = args.resume_from_checkpoint, bool(args.deepspeed)
    if named and named not in ("True", "true"):
        return require_resumable(named, model, zero, say)
    checkpoint = newest_resumable(run, model, zero, say) if args.do_train else newest_evaluable(run, model, say)
    if checkpoint is None and checkpoints(run):
        raise UserError(f"none of the checkpoints in {run} is whole: move them away to begin anew")
    return checkpoint
