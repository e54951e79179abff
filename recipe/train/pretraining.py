"""One pre-training run: its record, training, evaluation and the files it leaves."""

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.sources import Sources
from recipe.model.checkpoints import require_disk_space, step_of
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.branch import branch_point, take_over_log
from recipe.train.build import build_trainer
from recipe.train.callbacks import FirstStep
from recipe.train.describe import compared, describe
from recipe.train.model_card import write_run_cards
from recipe.train.plan import Plan, peak_bytes, plan_run, write_plan
from recipe.train.resume import checkpoint_to_resume, is_done
from recipe.train.rotary import RotaryBase
from recipe.train.run_folder import run_lock
from recipe.train.run_record import build_record, require_identical_ranks, write_record
from recipe.train.saving import checkpoint_bytes
from recipe.train.sequences import Sequences
from recipe.train.stopping import StopSignals
from recipe.train.trackers import continue_wandb_run
from recipe.train.trainer import NonFiniteError


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sources,
    sequences: Sequences,
    args: PretrainArguments,
    signature: dict,
    report: Callable,
    say: Callable[..., None],
    fresh: bool,
) -> int:
    """Trains and evaluates in args.output_dir, from the newest complete checkpoint if there is one; returns the exit
    code.

    `signature` is the resume signature. `report(metrics, model, tokenizer, evaluation data, run)` prints the results.
    `fresh` says that the model's weights were just initialised: they alone are not worth an evaluation.
    """
    run, main_process = Path(args.output_dir), args.process_index == 0
    if not (args.do_train or args.do_eval):
        say(model.config.to_json_string(), end="")
        say(
            f"found neither --do_train nor --do_eval: a {model.config.model_type} model of {model.num_parameters():,} "
            "parameters was built, and nothing else is done"
        )
        return 0
    require_disk_space(run, checkpoint_bytes(model.num_parameters(), args.ema_decay is not None))
    require_identical_ranks(signature)
    with run_lock(run) if main_process and not args.dry_run else nullcontext():
        checkpoint, allowed = checkpoint_to_resume(run, model, args, say), args.allow_changed
        if branches := checkpoint is None and args.branch_from is not None:
            checkpoint, changed = branch_point(model, args, signature, say)
            allowed = ",".join((allowed, *changed))
        record = build_record(run, signature, args.to_sanitized_dict(), allowed, checkpoint)
        if main_process and "wandb" in (args.report_to or ()):
            continue_wandb_run(record["wandb_run_id"])
        if args.do_train and checkpoint and is_done(run, checkpoint, args):
            say(
                f"{run} is done: {step_of(checkpoint)} steps, {checkpoint}. For another run, choose another RUN_NAME "
                "or OUTPUT_DIR."
            )
            return 0
        done = step_of(checkpoint) if checkpoint else 0
        plan = plan_run(model, sources, sequences, args, done) if args.do_train else None
        if args.dry_run == "json":
            say(json.dumps(asdict(plan) if plan else {}, indent=2))
            return 0
        describe(say, model, sources, sequences, args, tokenizer, plan)
        if args.dry_run:
            return 0

        tokenizer.model_max_length = max(stage.length for stage in sequences.stages)  # what the model is trained on
        began = time.monotonic()
        stop = StopSignals()
        first_step = FirstStep(lambda: write_what_is_known(run, record, plan))
        rotary = RotaryBase(model, sequences.phases)
        trainer = build_trainer(model, tokenizer, sources, sequences, args, [rotary, first_step, stop])
        if args.do_train:
            if branches and checkpoint and main_process:
                take_over_log(checkpoint, run)
            try:
                result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except NonFiniteError as error:
                say(f"error: {error}", file=sys.stderr)
                return NONFINITE_EXIT_CODE
            if stop.received and not trainer.is_over():
                step = trainer.state.global_step
                by = "Ctrl-C" if stop.received is signal.SIGINT else stop.received.name
                say(f"stopped by {by} after step {step}, saved in {run}/checkpoint-{step}: the same command continues")
                return INTERRUPTED_EXIT_CODE
            (run / "eval_results.json").unlink(missing_ok=True)  # from an earlier run with fewer steps
            trainer.save_model()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(sequences.train)})
            trainer.save_state()
        elif checkpoint:
            trainer._load_from_checkpoint(str(checkpoint))
            rotary.set(step_of(checkpoint) - 1)
            say(f"evaluating {checkpoint}")
        elif fresh:
            raise UserError(f"found no checkpoint in {run} to evaluate: pass --do_train or --model_name_or_path")
        if args.do_train and not args.do_eval and main_process:
            write_run_cards(run)
        if args.do_eval:
            if main_process and not args.do_train:
                write_record(run, record)
            metrics = trainer.final_evaluation()
            if main_process and args.do_train:
                write_run_cards(run, metrics)
            # Two more names, as in the results of the Hugging Face example scripts.
            metrics |= {"perplexity": metrics["eval_perplexity"], "eval_samples": len(sequences.evaluation)}
            trainer.save_metrics("eval", metrics)
            if plan and main_process:
                taken, memory = time.monotonic() - began, peak_bytes(args)
                write_plan(run, plan, {"seconds": taken, "memory": memory})
                say(compared(plan, taken, memory))
            if main_process:
                report(metrics, model, tokenizer, sequences.evaluation, run)
    return 0


def write_what_is_known(run: Path, record: dict, plan: Plan | None) -> None:
    """Writes run.json and plan.json."""
    write_record(run, record)
    if plan:
        write_plan(run, plan)
