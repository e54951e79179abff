"""What a pre-training says of itself on the console: what it is about to compute, and what came of it."""

from pathlib import Path

import numpy as np

from recipe.arguments import sequences_a_step
from recipe.batches import OrderedBlocks
from recipe.fill import blanks_from
from recipe.generate import continuations_of
from recipe.model import first_position, is_causal
from recipe.schedules import WITHOUT_AN_END
from recipe.zero import whole_model


def describe(say, model, prepared, train_data, stages, args, tokenizer) -> None:
    """Says what is about to be computed, and shows one sample so that a wrong tokenizer is seen at once."""
    micro, accumulation, devices = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    length, blocks = train_data.length, len(train_data)
    sequences = sequences_a_step(args)
    say(f"model      {model.config.model_type}, {model.num_parameters():,} parameters")
    say(
        f"data       {prepared.folder}: {prepared.splits['train']['tokens']:,} training and "
        f"{prepared.splits['validation']['tokens']:,} validation tokens, {blocks:,} blocks of {length}"
    )
    say(
        f"batch      {micro} sequences x {accumulation} accumulations x {devices} devices = {sequences:,} sequences "
        f"= {sequences * length:,} tokens a step"
    )
    for stage in stages.stages if len(stages.stages) > 1 else ():
        say(
            f"stage      steps {stage.first + 1:,} to {stage.last:,}: {stage.batch:,} sequences of {stage.length} "
            f"= {stage.batch * stage.length:,} tokens a step"
        )
    if args.max_hours:
        say(f"time       {args.max_hours:g} hours{_or_steps(args)}")
    else:
        epochs = stages.tokens_before(args.max_steps) / (blocks * length)
        say(f"steps      {args.max_steps:,} = {epochs:.2f} epochs")
    sample = train_data[0]
    say(f"sample     {' '.join(tokenizer.decode(sample['input_ids'][0][:60]).split())} ...")


def _or_steps(args) -> str:
    return "" if args.max_steps == WITHOUT_AN_END else f", or {args.max_steps:,} steps, whichever ends first"


def report(metrics: dict, model, tokenizer, eval_data: OrderedBlocks, run: Path) -> None:
    """The end of a run on the console: figures beside the baseline, three filled blanks or continued texts, and what to
    do next."""
    name = f"{eval_data.scored}accuracy"
    print(
        f"\neval loss        {metrics['eval_loss']:.3f} nats   (unigram baseline {metrics['eval_unigram_loss']:.3f})\n"
        f"perplexity       {metrics['eval_perplexity']:.1f}\n"
        f"{name.replace('_', ' '):15}  {metrics[f'eval_{name}']:.1%}   "
        f"(unigram baseline {metrics['eval_unigram_accuracy']:.1%})\n"
    )
    spread = np.linspace(0, len(eval_data.blocks) - 1, num=12, dtype=np.int64)
    rows = eval_data.blocks.rows(np.unique(spread))
    model = whole_model(model, run)
    if is_causal(model.config):
        for prompt, continued in continuations_of(model, tokenizer, rows):
            print(f"  {prompt} |{continued}\n")
        print(f"The model is in {run}: AutoModelForCausalLM.from_pretrained opens it.")
        if first := first_position(model.config):
            print(f"Pass position_ids that begin with {first} to its generate(), which would count from 0.")
        return
    for blank in blanks_from(model, tokenizer, rows):
        guesses = ", ".join(f"{word.strip() or word!r} {probability:.0%}" for word, probability in blank.guesses)
        print(f"  ... {blank.text} ...\n      {guesses}   (it was {blank.hidden})\n")
    print(f"The model is in {run}. Next:  RUN={run} bash finetune_glue.sh")
