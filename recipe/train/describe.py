"""What a run prints before step 1: its plan and one decoded sample; and, at its end, what became of the plan."""

from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.prepared_tokens import PreparedTokens
from recipe.system.units import byte_size, count, time_span
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.plan import Plan
from recipe.train.schedules import UNLIMITED_STEPS
from recipe.train.sequences import Sequences


def describe(
    say: Callable[..., None],
    model: PreTrainedModel,
    prepared: PreparedTokens,
    sequences: Sequences,
    args: PretrainArguments,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan | None,
) -> None:
    """Prints the plan of the run, with one decoded sample, so that a wrong tokenizer is seen at once."""
    micro, accumulation, devices = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    length, blocks, stages = sequences.train.length, len(sequences.train), sequences.stages
    batch, table = sequences_per_step(args), count(model.get_input_embeddings().weight.numel())
    say(f"model      {model.config.model_type}, {model.num_parameters():,} parameters, {table} in embeddings")
    say(f"data       {prepared.folder}")
    say(
        f"           {prepared.splits['train']['tokens']:,} training and "
        f"{prepared.splits['validation']['tokens']:,} validation tokens"
    )
    say(f"           {blocks:,} blocks of {length}")
    say(f"batch      {micro} sequences x {accumulation} accumulations x {devices} devices = {batch:,} sequences")
    say(f"           = {batch * length:,} tokens per step")
    for stage in stages.stages if len(stages.stages) > 1 else ():
        say(f"stage      steps {stage.first + 1:,} to {stage.last:,}: {stage.batch:,} sequences of {stage.length}")
        say(f"           = {stage.batch * stage.length:,} tokens per step")
    if args.max_steps != UNLIMITED_STEPS:
        flops = f", {plan.flops:.1e} FLOP" if plan and plan.flops else ""
        epochs = stages.tokens_before(args.max_steps) / (blocks * length)
        say(f"steps      {args.max_steps:,} = {epochs:.2f} epochs{flops}")
    if args.max_hours:
        limit = "" if args.max_steps == UNLIMITED_STEPS else f", or {args.max_steps:,} steps, whichever ends first"
        say(f"time       {args.max_hours:g} hours{limit}")
    elif plan and plan.seconds:
        left = f" for the {plan.steps_left:,} steps left" if plan.steps_left != plan.steps else ""
        say(f"time       {time_span(plan.seconds)} on this machine{left}")
    if plan:
        say(f"memory     {byte_size(plan.memory)} per process, {byte_size(plan.memory_available)} available")
        kept = (
            f", {byte_size(plan.checkpoints * plan.checkpoint)} for the {plan.checkpoints} kept"
            if plan.checkpoints
            else ""
        )
        say(f"disk       {byte_size(plan.checkpoint)} per checkpoint{kept}; {byte_size(plan.disk_free)} free")
    sample = sequences.train[0]
    say(f"sample     {' '.join(tokenizer.decode(sample['input_ids'][0][:60]).split())} ...")


def compared(plan: Plan, seconds: float, memory: float) -> str:
    """The plan beside what was measured, in one line."""
    time = f"{time_span(plan.seconds)} and " if plan.seconds else ""
    return (
        f"planned    {time}{byte_size(plan.memory)} per process; measured {time_span((seconds, seconds))} and "
        f"{byte_size(memory)}"
    )
