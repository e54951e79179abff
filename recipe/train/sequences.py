"""The training and evaluation sequences of a run, and its stages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from recipe.data.arguments import DataArguments
from recipe.data.blocks import Blocks, OrderedBlocks
from recipe.data.prepared_tokens import PreparedTokens
from recipe.data.token_arrays import CheckedTokens
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments, epochs_to_steps, sequences_per_step
from recipe.train.schedules import resolve_schedule
from recipe.train.stages import Stages, stages_of

Data = TypeVar("Data", bound=OrderedBlocks)  # of an objective


def stages_of_run(data: DataArguments, args: PretrainArguments, blocks: int) -> Stages:
    """The stages of a run on `blocks` training blocks of --max_seq_length; sets args.max_steps and validates the
    learning rate schedule first."""
    args.max_steps = epochs_to_steps(args, blocks)
    resolve_schedule(args, args.max_hours)
    return stages_of(
        args.max_steps,
        data.max_seq_length,
        sequences_per_step(args),
        short_length=args.short_seq_length,
        short_share=args.short_seq_share,
        warmup_start=args.batch_warmup_start,
        warmup_steps=args.batch_warmup_steps,
    )


@dataclass
class Sequences(Generic[Data]):
    """The sequences of a run: for training, for stages of short sequences if there are any, and for evaluation."""

    stages: Stages
    train: Data
    short: Data | None
    evaluation: Data


def sequences_of(
    prepared: PreparedTokens,
    data: DataArguments,
    args: PretrainArguments,
    cut: Callable[[np.ndarray | CheckedTokens, int], Blocks],
    inputs: Callable[[Blocks, Stages, int | None, int | None], Data],
) -> Sequences[Data]:
    """The training and evaluation sequences of a run, and its stages.

    `cut(tokens, length)` makes the blocks for sequences of `length` tokens; `inputs(blocks, stages, order_seed, limit)`
    makes the inputs of the objective, those of evaluation if order_seed is None. Raises UserError if the text is
    shorter than one block.
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
