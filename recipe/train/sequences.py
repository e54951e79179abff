"""The training and evaluation sequences of a run, its phases and its stages."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from recipe.data.arguments import DataArguments
from recipe.data.blocks import Blocks, JoinedBlocks, OrderedBlocks
from recipe.data.mixtures import Turns
from recipe.data.sources import Sources
from recipe.data.token_arrays import CheckedTokens
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments, epochs_to_steps, sequences_per_step
from recipe.train.phases import Phase, steps_of, with_steps
from recipe.train.schedules import PHASES, OwnSchedule, resolve_schedule
from recipe.train.stages import Stages, stages_of, stages_of_phases

Data = TypeVar("Data", bound=OrderedBlocks)  # of an objective


@dataclass
class Sequences(Generic[Data]):
    """The sequences of a run. `train` are those that the flags alone describe, for plan and calibration; `of_phases`
    those of each phase; `evaluation` the validation text of all sources, whose short names are `names`."""

    stages: Stages
    train: Data
    of_phases: tuple[Data, ...]
    evaluation: Data
    names: tuple[str, ...] = ("",)
    phases: tuple[Phase, ...] = ()

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source, by its short name, was passed over before `step`."""
        stage = self.stages.at(max(0, step - 1))  # a phase that has just ended, not one that begins
        number = stage.start + (step - stage.first) * stage.batch
        return dict(zip(self.names, self.of_phases[stage.phase].epochs(number), strict=True))


def sequences_of(
    sources: Sources,
    data: DataArguments,
    args: PretrainArguments,
    phases: Sequence[Phase],
    cut: Callable[[np.ndarray | CheckedTokens, int], Blocks],
    inputs: Callable[..., Data],
) -> Sequences[Data]:
    """The training and evaluation sequences of a run, and its stages. Sets the steps and the schedule of `args`.

    `phases` are those of --phases or --objective_schedule, or none. `cut(tokens, length)` makes the blocks for
    sequences of `length` tokens; `inputs(blocks, stages, phase, order_seed=..., limit=..., turns=...)` makes the inputs
    of the objective, those of evaluation if `phase` is None. Raises UserError if a source is shorter than one block."""
    limit, seed = data.max_train_samples, args.seed if args.data_seed is None else args.data_seed
    texts = {split: [source.checked(split) for source in sources.prepared] for split in ("train", "validation")}

    def blocks(split: str, length: int) -> Blocks | JoinedBlocks:
        parts = tuple(cut(tokens, length) for tokens in texts[split])
        return parts[0] if len(parts) == 1 else JoinedBlocks(parts)

    whole = blocks("train", data.max_seq_length)
    lengths = [phase.max_seq_length or data.max_seq_length for phase in phases] or [data.max_seq_length]
    _require_a_block(sources, blocks("train", max(lengths)), max(lengths))
    in_an_epoch = sum(min(len(source), limit or len(source)) for source in whole.sources)
    resolved, stages = stages_of_run(data, args, phases, in_an_epoch)
    mixtures = [sources.shares(phase.data or _weights(data, sources), data.mixture_temperature) for phase in resolved]

    of_phases: list[Data] = []
    stretch, begun = 0, 0  # the first phase, and the first step, with the present mixture
    epochs: list[float] = [0.0] * len(sources)  # over each source, when it began
    for number, phase in enumerate(resolved):
        if mixtures[number] != mixtures[stretch]:
            stretch, begun = number, phase.first
            last = stages.at(phase.first - 1)
            epochs = of_phases[number - 1].epochs(last.start + (last.last - last.first) * last.batch)
        length = phase.max_seq_length or data.max_seq_length
        own = whole if length == data.max_seq_length else blocks("train", length)
        own_limit = limit and limit * data.max_seq_length // length
        counts = [min(len(source), own_limit or len(source)) for source in own.sources]
        seen = tuple(math.ceil(before * count - 1e-6) for before, count in zip(epochs, counts, strict=True))
        turns = Turns(mixtures[number], stages.tokens_before(begun) // length, seen)
        of_phases.append(inputs(own, stages, phase, order_seed=seed, limit=own_limit, turns=turns))
    turns = Turns(mixtures[0])
    train = inputs(whole, stages, Phase(), order_seed=seed, limit=limit, turns=turns)
    evaluation = inputs(
        blocks("validation", data.max_seq_length),
        stages,
        None,
        order_seed=None,
        limit=data.max_eval_samples,
        turns=None,
    )
    return Sequences(stages, train, tuple(of_phases), evaluation, sources.names, tuple(resolved))


def stages_of_run(
    data: DataArguments, args: PretrainArguments, phases: Sequence[Phase], blocks: int
) -> tuple[list[Phase], Stages]:
    """The phases of a run, with their steps, and its stages, on `blocks` training blocks of --max_seq_length; sets
    args.max_steps and validates the learning rate schedule first. Without `phases`, the flags describe them."""
    length, batch = data.max_seq_length, sequences_per_step(args)
    warmup = {"warmup_start": args.batch_warmup_start, "warmup_steps": args.batch_warmup_steps}
    if phases and args.max_steps <= 0:
        args.max_steps = steps_of(phases) or args.max_steps
    args.max_steps = epochs_to_steps(args, blocks)
    if not phases:
        resolve_schedule(args, args.max_hours)
        short = {"short_length": args.short_seq_length, "short_share": args.short_seq_share}
        stages = stages_of(args.max_steps, length, batch, **short, **warmup)
        return [
            Phase(max_seq_length=part[0].length, first=part[0].first, last=part[-1].last)
            for _, group in itertools.groupby(stages, key=lambda stage: stage.phase)
            if (part := list(group))
        ], stages
    resolved = with_steps(phases, args.max_steps)
    _set_rates(args, resolved)
    resolve_schedule(args)
    parts = [(phase.last, phase.max_seq_length or length) for phase in resolved]
    cuts = args.gradient_accumulation_steps * args.world_size
    return resolved, stages_of_phases(parts, length, batch, cuts=cuts, **warmup)


def _set_rates(args: PretrainArguments, phases: Sequence[Phase]) -> None:
    """Makes the learning rates of phases, if they have their own, the schedule of `args`, after its warm-up."""
    pieces = [[phase.first, phase.last, *phase.lr, phase.lr_shape] for phase in phases if phase.lr]
    if not pieces:
        return
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if kind not in ("linear", PHASES):  # linear is the default
        raise UserError(f"found --lr_scheduler_type {kind} beside phases with lr: leave it out, or lr")
    warmup = args.get_warmup_steps(args.max_steps)
    args.lr_scheduler_type = OwnSchedule(PHASES)
    args.lr_scheduler_kwargs = {"pieces": pieces, "warmup": warmup}


def _weights(data: DataArguments, sources: Sources) -> dict[str, float]:
    """The weights of --dataset_name, of which there is one source if it isn't a mixture."""
    return data.weights or {sources.datasets[0]: 1.0}


def _require_a_block(sources: Sources, blocks: Blocks | JoinedBlocks, length: int) -> None:
    """Raises UserError if the training text of a source is shorter than one block."""
    for dataset, source in zip(sources.datasets, blocks.sources, strict=True):
        if len(source.tokens) < source.body:
            text = f"the training text of {dataset}" if len(sources) > 1 else "the training text"
            raise UserError(
                f"{text} has {len(source.tokens)} tokens, expected at least {source.body}, one block of "
                f"--max_seq_length {length}: use more text or shorter blocks"
            )
