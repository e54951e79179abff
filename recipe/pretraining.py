"""What every pre-training does, whatever its objective: checks before it, text and tokenizer, and then one run from its
record over training to the files it leaves behind."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import DataArguments, ModelArguments, PretrainArguments, epochs_to_steps, sequences_a_step
from recipe.batches import Blocks, OrderedBlocks
from recipe.callbacks import (
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
from recipe.card import write_run_card
from recipe.checkpoints import checkpoints, require_room, step_of
from recipe.cpu import keep_freed_memory, warning_of_slow_bf16
from recipe.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, UserError
from recipe.hub import require_hub
from recipe.model import (
    build_model,
    check_length,
    check_tokenizer,
    fit_to_tokenizer,
    is_causal,
    load_config,
    load_model,
    require_family,
    set_dropout,
)
from recipe.prepare import corpus_of, prepared_dir, require_outside, tokenizer_of, tokens_of
from recipe.prepared import PreparedTokens
from recipe.quiet import quiet_libraries
from recipe.resume import newest_evaluable, newest_resumable, require_resumable
from recipe.run import require_agreement, settle_record, write_record
from recipe.run_folder import run_lock
from recipe.saving import CHECKPOINT_BYTES_A_PARAMETER
from recipe.schedules import settle_schedule, time_is_up
from recipe.stages import Stages, stages_of
from recipe.summary import describe
from recipe.tokenizer import block_ends, fingerprint
from recipe.trackers import continue_wandb_run, guard_trackers, settle_trackers
from recipe.trainer import NonFiniteError, PretrainTrainer
from recipe.unigram import UnigramBaseline

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# The settings of TrainingArguments that decide what a run computes.
DECIDING = (
    "seed data_seed max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay "
    "adam_beta1 adam_beta2 adam_epsilon optim_args max_grad_norm bf16 fp16 "
    "short_seq_length short_seq_share batch_warmup_start batch_warmup_steps max_hours"
)


def begin(args: PretrainArguments, data: DataArguments) -> Callable[..., None]:
    """Checks what needs neither text nor model, and returns `print` for the first process, silence for the others."""
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    if args.device.type == "cpu":
        keep_freed_memory()
        if args.bf16 and (slow := warning_of_slow_bf16()):
            say(f"warning: {slow}")
    require_outside("--output_dir", args.output_dir, data)
    require_room(Path(args.output_dir))
    if args.push_to_hub:
        require_hub("the repository to push to", "no --push_to_hub, and push the folder later")
    settle_trackers(args, say)
    for sentence in (*data.ignored(), *args.unused):
        say(f"warning: {sentence}")
    return say


def config_of(model: ModelArguments) -> tuple[str, PreTrainedConfig]:
    """The (name for messages, config) of the model that is asked for."""
    sources = (model.config_name, model.model_name_or_path, model.model_type)
    if model.model_name_or_path and (model.config_name or model.config_overrides):
        raise UserError("found --model_name_or_path beside --config_name or --config_overrides: pass one or the other")
    name = next((source for source in sources if source), None)
    if name is None:
        raise UserError(
            "found no model: pass --config_name configs/roberta_tiny.json, --model_name_or_path or --model_type"
        )
    if name == model.model_type:
        require_family(name)
        ours = CONFIGS / f"{name}_base.json"
        name = str(ours) if ours.exists() else name
    config = load_config(name, model.config_overrides, **model.hub_options())
    if model.dropout is not None:
        set_dropout(config, model.dropout)
    return name, config


def model_of(
    model: ModelArguments, config: PreTrainedConfig, seed: int, say: Callable[..., None] = print
) -> PreTrainedModel:
    """The model to train: a checkpoint's, whose head is drawn from `seed` where it has none, or a new one with weights
    drawn from `seed`."""
    set_seed(seed)
    if model.model_name_or_path:
        return load_model(model.model_name_or_path, config, say, new_head=True, **model.hub_options())
    return build_model(config)


def text_of(
    model: ModelArguments,
    data: DataArguments,
    name: str,
    config: PreTrainedConfig,
    say: Callable[..., None],
    keep_linebreaks: bool = True,
) -> tuple[PreTrainedTokenizerFast, PreparedTokens]:
    """The tokenizer and the prepared tokens, made if they aren't there; a new model's embedding is fitted to them."""
    check_length(config, data.max_seq_length, name)
    corpus = corpus_of(data, model, keep_linebreaks)
    needs = ("pad",) if is_causal(config) else ("pad", "mask")
    tokenizer = tokenizer_of(model, config.model_type, corpus, prepared_dir(data), needs)
    if model.model_name_or_path:
        check_tokenizer(config, tokenizer, name)
    elif change := fit_to_tokenizer(config, tokenizer, name):
        say(change)
    return tokenizer, tokens_of(data, corpus, tokenizer, quiet=say is not print)


def stages_of_run(data: DataArguments, args: PretrainArguments, blocks: int) -> Stages:
    """What each step of the run sees, where there are `blocks` training blocks of --max_seq_length; settles
    args.max_steps and the learning rate's schedule on the way."""
    args.max_steps = epochs_to_steps(args, blocks)
    settle_schedule(args, args.max_hours)
    return stages_of(
        args.max_steps,
        data.max_seq_length,
        sequences_a_step(args),
        short_length=args.short_seq_length,
        short_share=args.short_seq_share,
        warmup_start=args.batch_warmup_start,
        warmup_steps=args.batch_warmup_steps,
    )


@dataclass
class Sequences:
    """What a run sees and when: its training sequences, shorter ones for first stages that have such, and those of
    evaluation."""

    stages: Stages
    train: OrderedBlocks
    short: OrderedBlocks | None
    evaluation: OrderedBlocks


def sequences_of(
    prepared: PreparedTokens,
    data: DataArguments,
    args: PretrainArguments,
    cut: Callable[[np.ndarray, int], Blocks],
    inputs: Callable[[Blocks, Stages, int | None, int | None], OrderedBlocks],
) -> Sequences:
    """Training and evaluation data of a run, and its stages.

    `cut(tokens, length)` makes the blocks of sequences of `length` tokens, and `inputs(blocks, stages, order_seed,
    limit)` the inputs of the objective, those of evaluation where order_seed is None. Raises UserError where the text
    is shorter than one block.
    """
    length, short, limit = data.max_seq_length, args.short_seq_length, data.max_train_samples
    whole = cut(prepared.checked("train"), length)
    if len(whole.tokens) < whole.body:
        raise UserError(
            f"the training text has {len(whole.tokens)} tokens, expected at least {whole.body}, one block of "
            f"--max_seq_length {length}: use more text or shorter blocks"
        )
    stages = stages_of_run(data, args, min(len(whole), limit or len(whole)))
    order_seed = args.seed if args.data_seed is None else args.data_seed
    shorter = None
    if short:
        shorter = inputs(cut(whole.tokens, short), stages, order_seed, limit and limit * length // short)
    return Sequences(
        stages,
        train=inputs(whole, stages, order_seed, limit),
        short=shorter,
        evaluation=inputs(cut(prepared.checked("validation"), length), stages, None, data.max_eval_samples),
    )


def what_the_run_means(config, data, args, prepared, tokenizer, objective: dict) -> dict:
    """The settings that decide what a run computes: they may not change when it is resumed."""
    return {
        **objective,
        "model": {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "dtype")},
        "data": prepared.fingerprint,
        "tokenizer": fingerprint(tokenizer),
        "max_seq_length": data.max_seq_length,
        "max_train_samples": data.max_train_samples,
        "global_batch_size": sequences_a_step(args),
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
    require_room(run, CHECKPOINT_BYTES_A_PARAMETER * model.num_parameters())
    require_agreement(meaning)
    with run_lock(run) if main_process else nullcontext():
        checkpoint = checkpoint_to_resume(run, model, args, say)
        record = settle_record(run, meaning, args.to_sanitized_dict(), args.allow_changed, checkpoint)
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
