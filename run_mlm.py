#!/usr/bin/env python3
"""Pre-trains a masked language model: one run, from text to checkpoints that plain transformers loads.

Speaks the flags of the Hugging Face example script of this name, all TrainingArguments, or one .json or .yaml file
with them. Run the same command again and it continues from the newest whole checkpoint, to the same bits.

    python run_mlm.py --config_name configs/roberta_tiny.json --tokenizer_name train --dataset_name docstrings \\
        --do_train --do_eval --max_seq_length 128 --max_steps 500 --output_dir runs/first
"""

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import transformers
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.arguments import (
    DataArguments,
    ModelArguments,
    ObjectiveArguments,
    PretrainArguments,
    epochs_to_steps,
    parse,
    sequences_a_step,
)
from recipe.batches import Blocks, MaskedSequences
from recipe.callbacks import Console, JsonLog, PlainConsole, RankSeed, StopSignals, TrueEpoch
from recipe.checkpoints import (
    checkpoints,
    damage,
    newest_whole,
    require_room,
    require_training_state,
    run_lock,
    step_of,
)
from recipe.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE, UserError, run_script
from recipe.hub import require_hub
from recipe.masking import Masking
from recipe.model import (
    HEADS,
    build_model,
    check_length,
    check_tokenizer,
    fit_to_tokenizer,
    load_config,
    load_model,
    set_dropout,
    use_masked_only_head,
)
from recipe.prepare import corpus_of, tokenizer_of, tokens_of
from recipe.quiet import quiet_libraries
from recipe.run import record_run
from recipe.summary import describe, report
from recipe.tokenizer import block_ends, fingerprint
from recipe.trackers import continue_wandb_run, guard_trackers, settle_trackers
from recipe.trainer import CHECKPOINT_BYTES_A_PARAMETER, NonFiniteError, PretrainTrainer
from recipe.unigram import UnigramBaseline
from recipe.words import word_boundaries

EVAL_MASK_SEED = 1 << 32  # beyond any training seed: one set of eval masks for all runs


def main() -> int:
    model_args, data, objective, args = parse(
        (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments), description=__doc__
    )
    main_process = args.process_index == 0
    say = print if main_process else (lambda *_, **__: None)
    quiet_libraries()
    if not (args.do_train or args.do_eval):
        raise UserError("found neither --do_train nor --do_eval: pass what to do")
    run = Path(args.output_dir)
    require_room(run)
    if args.push_to_hub:
        require_hub("the repository to push to", "no --push_to_hub, and push the folder later")
    settle_trackers(args, say)
    for sentence in data.ignored():
        say(f"warning: {sentence}")

    # From text to blocks. What can be known before step 1 is checked on the way.
    name, config = model_config(model_args)
    check_length(config, data.max_seq_length, name)
    corpus = corpus_of(data, model_args)
    tokenizer = tokenizer_of(model_args, config.model_type, corpus, Path(data.prepared_dir).expanduser())
    if model_args.model_name_or_path:
        check_tokenizer(config, tokenizer, name)
    elif change := fit_to_tokenizer(config, tokenizer, name):
        say(change)
    prepared = tokens_of(data, corpus, tokenizer, quiet=not main_process)
    train_data, eval_data = masked_sequences(prepared, tokenizer, data, objective, args)
    args.max_steps = epochs_to_steps(args, len(train_data))

    # The model, and the run's folder.
    set_seed(args.seed)
    if model_args.model_name_or_path:
        model = load_model(model_args.model_name_or_path, config, **model_args.hub_options())
    else:
        model = build_model(config)
    use_masked_only_head(model)
    require_room(run, CHECKPOINT_BYTES_A_PARAMETER * model.num_parameters())
    with run_lock(run) if main_process else nullcontext():
        if main_process:
            meaning = what_the_run_means(config, data, objective, args, prepared, tokenizer)
            record = record_run(run, meaning, args.to_sanitized_dict(), args.allow_changed)
            if "wandb" in args.report_to:
                continue_wandb_run(record["wandb_run_id"])
        checkpoint = checkpoint_to_resume(run, args, say)
        if args.do_train and checkpoint and is_done(run, checkpoint, args):
            say(f"{run} is done: {args.max_steps} steps, {checkpoint}. For another run choose another OUTPUT_DIR.")
            return 0
        describe(say, model, prepared, train_data, args, tokenizer)

        stop = StopSignals()
        trainer = PretrainTrainer(
            model=model,
            args=args,
            train_dataset=train_data,
            eval_dataset=eval_data,
            processing_class=tokenizer,
            baseline=UnigramBaseline(prepared.unigram_counts(), tuple(tokenizer.all_special_ids)),
            callbacks=[
                TrueEpoch(len(train_data), sequences_a_step(args)),
                RankSeed(),
                JsonLog(run / "log.jsonl"),
                stop,
            ],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(PlainConsole if args.disable_tqdm else Console)
        guard_trackers(trainer)
        if args.do_train:
            try:
                result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except NonFiniteError as error:
                say(f"error: {error}", file=sys.stderr)
                return NONFINITE_EXIT_CODE
            if stop.received and trainer.state.global_step < args.max_steps:
                step = trainer.state.global_step
                say(f"stopped by {stop.received.name} after step {step}, saved in {run}/checkpoint-{step}: run again")
                return INTERRUPTED_EXIT_CODE
            (run / "eval_results.json").unlink(missing_ok=True)  # of a run with fewer steps, if there is one
            trainer.save_model()
            trainer.save_metrics("train", result.metrics)
            trainer.save_state()
        elif checkpoint:
            trainer._load_from_checkpoint(str(checkpoint))
            say(f"evaluating {checkpoint}")
        elif not model_args.model_name_or_path:
            raise UserError(f"found no checkpoint in {run} to evaluate: pass --do_train or --model_name_or_path")
        if args.do_eval:
            metrics = trainer.evaluate()
            trainer.save_metrics("eval", metrics)
            if main_process:
                report(metrics, model, tokenizer, eval_data, run)
    return 0


def model_config(model_args: ModelArguments):
    """The (name for messages, config) of the model that is asked for."""
    sources = (model_args.config_name, model_args.model_name_or_path, model_args.model_type)
    if model_args.model_name_or_path and (model_args.config_name or model_args.config_overrides):
        raise UserError("found --model_name_or_path beside --config_name or --config_overrides: pass one or the other")
    name = next((source for source in sources if source), None)
    if name is None:
        raise UserError(
            "found no model: pass --config_name configs/roberta_tiny.json, --model_name_or_path or --model_type"
        )
    if name == model_args.model_type:
        if name not in transformers.CONFIG_MAPPING:
            raise UserError(f"found --model_type {name}, expected one of {', '.join(HEADS)}")
        name = f"configs/{name}_base.json" if Path(f"configs/{name}_base.json").exists() else name
    config = load_config(name, model_args.config_overrides, **model_args.hub_options())
    if model_args.dropout is not None:
        set_dropout(config, model_args.dropout)
    return name, config


def masked_sequences(prepared, tokenizer, data, objective, args) -> tuple[MaskedSequences, MaskedSequences]:
    """Training and evaluation data; raises UserError where the corpus is shorter than one block."""
    body = data.max_seq_length - 2
    tokens = prepared.splits["train"]["tokens"]
    if tokens < body:
        raise UserError(
            f"the training text has {tokens} tokens, expected at least {body}, one block of --max_seq_length "
            f"{data.max_seq_length}: use more text or shorter blocks"
        )
    words = word_boundaries(tokenizer) if objective.whole_word_mask else None
    sequences = []
    for split, limit in (("train", data.max_train_samples), ("validation", data.max_eval_samples)):
        training = split == "train"
        masking = Masking(
            vocab_size=len(tokenizer),
            mask_id=tokenizer.mask_token_id,
            pad_id=tokenizer.pad_token_id,
            special_ids=tuple(tokenizer.all_special_ids),
            seed=args.seed if training else EVAL_MASK_SEED,
            mlm_probability=objective.mlm_probability,
            mask_replace_prob=objective.mask_replace_prob,
            random_replace_prob=objective.random_replace_prob,
            words=words,
        )
        blocks = Blocks(prepared.tokens(split), data.max_seq_length, block_ends(tokenizer), tokenizer.pad_token_id)
        order_seed = (args.seed if args.data_seed is None else args.data_seed) if training else None
        sequences.append(MaskedSequences(blocks, masking, order_seed, limit))
    return tuple(sequences)


def what_the_run_means(config, data, objective, args, prepared, tokenizer) -> dict:
    """The settings that decide what a run computes: they may not change when it is resumed."""
    named = (
        "seed data_seed max_steps learning_rate lr_scheduler_type warmup_steps weight_decay "
        "adam_beta1 adam_beta2 adam_epsilon max_grad_norm bf16 fp16"
    )
    return {
        "model": {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "dtype")},
        "data": prepared.fingerprint,
        "tokenizer": fingerprint(tokenizer),
        "max_seq_length": data.max_seq_length,
        "max_train_samples": data.max_train_samples,
        "global_batch_size": sequences_a_step(args),
        **asdict(objective),
        **{name: getattr(args, name) for name in named.split()},
        "lr_scheduler_kwargs": args.lr_scheduler_kwargs,
        "optim": str(args.optim.value if hasattr(args.optim, "value") else args.optim),
    }


def is_done(run: Path, checkpoint: Path, args) -> bool:
    """Whether the last step was taken and everything after it was written, too."""
    written = (run / "train_results.json").exists() and (not args.do_eval or (run / "eval_results.json").exists())
    return written and step_of(checkpoint) >= args.max_steps


def checkpoint_to_resume(run: Path, args, say) -> Path | None:
    """The checkpoint to go on from: the one that --resume_from_checkpoint names, or the newest whole one."""
    named = args.resume_from_checkpoint
    if named and named not in ("True", "true"):
        if reason := damage(Path(named)):
            raise UserError(f"cannot resume from {named}: {reason}: leave the flag out to take the newest whole one")
        checkpoint = Path(named)
    else:
        checkpoint = newest_whole(run, warn=say)
        if checkpoint is None and checkpoints(run):
            raise UserError(f"none of the checkpoints in {run} is whole: move them away to begin anew")
    if checkpoint and args.do_train:
        require_training_state(checkpoint, zero=bool(args.deepspeed))
    return checkpoint


if __name__ == "__main__":
    run_script(main)
