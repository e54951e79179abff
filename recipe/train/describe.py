"""What a run prints before step 1: model, data, batch, steps and one decoded sample."""

from recipe.train.arguments import sequences_per_step
from recipe.train.schedules import UNLIMITED_STEPS


def describe(say, model, prepared, train_data, stages, args, tokenizer) -> None:
    """Prints what the run is about to compute, with one decoded sample, so that a wrong tokenizer is seen at once."""
    micro, accumulation, devices = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    length, blocks = train_data.length, len(train_data)
    sequences = sequences_per_step(args)
    say(f"model      {model.config.model_type}, {model.num_parameters():,} parameters")
    say(
        f"data       {prepared.folder}: {prepared.splits['train']['tokens']:,} training and "
        f"{prepared.splits['validation']['tokens']:,} validation tokens, {blocks:,} blocks of {length}"
    )
    say(
        f"batch      {micro} sequences x {accumulation} accumulations x {devices} devices = {sequences:,} sequences "
        f"= {sequences * length:,} tokens per step"
    )
    for stage in stages.stages if len(stages.stages) > 1 else ():
        say(
            f"stage      steps {stage.first + 1:,} to {stage.last:,}: {stage.batch:,} sequences of {stage.length} "
            f"= {stage.batch * stage.length:,} tokens per step"
        )
    if args.max_hours:
        say(f"time       {args.max_hours:g} hours{_step_limit(args)}")
    else:
        epochs = stages.tokens_before(args.max_steps) / (blocks * length)
        say(f"steps      {args.max_steps:,} = {epochs:.2f} epochs")
    sample = train_data[0]
    say(f"sample     {' '.join(tokenizer.decode(sample['input_ids'][0][:60]).split())} ...")


def _step_limit(args) -> str:
    return "" if args.max_steps == UNLIMITED_STEPS else f", or {args.max_steps:,} steps, whichever ends first"
