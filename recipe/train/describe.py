"""What a run prints before step 1: its plan and one decoded sample; and, at its end, what became of the plan."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.mixtures import PERIOD
from recipe.data.prepared_tokens import SPLITS
from recipe.data.sources import Sources
from recipe.system.units import byte_size, count, time_span
from recipe.train.arguments import PretrainArguments, sequences_per_step
from recipe.train.phases import Phase
from recipe.train.plan import Plan, embedding_parameters
from recipe.train.schedules import UNLIMITED_STEPS
from recipe.train.sequences import Sequences

COLUMNS = 80


def describe(
    say: Callable[..., None],
    model: PreTrainedModel,
    sources: Sources,
    sequences: Sequences,
    args: PretrainArguments,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan | None,
) -> None:
    """Prints the plan of the run, with one decoded sample, so that a wrong tokenizer is seen at once."""
    micro, accumulation, devices = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    length, blocks, stages = sequences.train.length, len(sequences.train), sequences.stages
    batch, tokens = sequences_per_step(args), {split: sum(sources.tokens(split)) for split in SPLITS}

    def line(title: str, *parts: str) -> None:
        text = " ".join(parts)
        say(fill(text, COLUMNS, initial_indent=f"{title:<11}", subsequent_indent=" " * 11, break_on_hyphens=False))

    size, table = count(model.num_parameters()), count(embedding_parameters(model))
    line("model", f"{model.config.model_type}, {size} parameters, of them {table} in the token embeddings")
    for number, (name, prepared) in enumerate(zip(sources.names, sources.prepared, strict=True)):
        named = f"{name}: " if len(sources) > 1 else ""
        line("" if number else "data", f"{named}{prepared.folder}")
    line("", f"{tokens['train']:,} training and {tokens['validation']:,} validation tokens")
    line("", f"{blocks:,} blocks of {length}")
    line(
        "batch",
        f"{micro} sequences x {accumulation} accumulation{'s' * (accumulation != 1)} x {devices} "
        f"{'processes' if devices != 1 else 'process'} = {batch:,} sequences",
        f"= {batch * length:,} tokens per step",
    )
    if args.document_attention:
        line("attention", f"within documents, by masks of whole blocks ({model.config._attn_implementation})")
    for stage in stages.stages if len(stages.stages) > 1 or len(sources) > 1 else ():
        phase = sequences.phases[stage.phase]
        line(
            phase.name or "stage",
            f"steps {stage.first + 1:,} to {stage.last:,}: {stage.batch:,} sequences of {stage.length}",
            f"= {stage.batch * stage.length:,} tokens per step",
        )
        if about := described(phase):
            line("", about)
        if len(sources) > 1:
            shares = sequences.of_phases[stage.phase].turns.shares
            epochs = sequences.epochs(min(stage.last, plan.steps) if plan else stage.last)
            line(
                "",
                ", ".join(
                    f"{name} {share / PERIOD:.1%} ({epochs[name]:.2f} epochs by then)"
                    for name, share in zip(sources.names, shares, strict=True)
                    if share
                ),
            )
    if plan:
        about = "about " if args.max_hours else ""
        line("steps", f"{about}{plan.steps:,} = {plan.epochs:.2f} epochs, {plan.flops:.1e} FLOP")
        limit = "" if args.max_steps == UNLIMITED_STEPS else f", or {args.max_steps:,} steps, whichever ends first"
        left = f" for the {plan.steps_left:,} steps left" if plan.steps_left != plan.steps else ""
        measured = f"{time_span(plan.seconds)} on this machine{left}"
        line("time", f"{args.max_hours:g} hours{limit}" if args.max_hours else measured)
        line("memory", f"{byte_size(plan.memory)} per process, {byte_size(plan.memory_available)} available")
        kept = f"{byte_size(plan.checkpoints * plan.checkpoint)} for the {plan.checkpoints} kept"
        line("disk", f"{byte_size(plan.checkpoint)} per checkpoint, {kept}; {byte_size(plan.disk_free)} free")
    if args.push_to_hub:
        name = args.hub_model_id or Path(args.output_dir).name
        when = "each checkpoint" if "every_save" in str(args.hub_strategy) else "the final model"
        line(
            "hub",
            f"pushes {when} to {name}: weights ({byte_size(4 * model.num_parameters())}), config, tokenizer, card",
        )
    sample = sequences.train[0]
    line("sample", f"{' '.join(tokenizer.decode(sample['input_ids'][0][:60]).split())} ...")


def described(phase: Phase) -> str:
    """What a phase does unlike the flags of its run, in a few words."""
    parts = []
    if phase.objective:
        parts.append({"mlm": "masked", "clm": "causal", "hybrid": "masked and causal"}[phase.objective])
    if phase.mlm_probability:
        end = f" to {phase.mlm_probability_end:.0%}" if phase.mlm_probability_end else ""
        parts.append(f"{phase.mlm_probability:.0%}{end} masked")
    if phase.lr:
        begin, end = phase.lr
        parts.append(f"learning rate x {begin:g}" + (f" to {end:g} ({phase.lr_shape})" if end != begin else ""))
    if phase.rope_theta:
        parts.append(f"rotary base {phase.rope_theta:,.0f}")
    return ", ".join(parts)


def compared(plan: Plan, seconds: float, memory: float) -> str:
    """The plan beside what was measured, in one line."""
    return (
        f"planned    {time_span(plan.seconds)}, {byte_size(plan.memory)} per process; measured "
        f"{time_span((seconds, seconds))}, {byte_size(memory)}"
    )
