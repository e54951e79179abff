"""Sequence length, batch size and masking rate by optimizer step. Each is a function of the step alone, so a resumed
run has the same values as an uninterrupted one."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.system.errors import UserError


@dataclass(frozen=True)
class Stage:
    """Steps `first` to `last` - 1, whose global batches have the same shape: `batch` sequences of `length` tokens.
    `start` is the number n of its first sequence, `phase` the number of the phase that the steps belong to."""

    first: int
    last: int
    length: int
    batch: int
    start: int
    phase: int = 0


class Stages:
    """The stages of a run, in order.

    Sequences of one length are numbered by the tokens before them: step k begins with n = T / length, where T is the
    number of tokens of all earlier steps. So a run of one stage has n = 0, 1, 2, ...; while the length stays the same,
    no sequence is skipped or repeated; and where only the length changes, step k sees the same sequences as step k of a
    run with that length throughout.
    """

    def __init__(self, stages: list[Stage]):
        self.stages = stages
        self._firsts = [stage.first for stage in stages]

    def __iter__(self):
        return iter(self.stages)

    def at(self, step: int) -> Stage:
        """The stage of a step; for steps after the end, the last stage."""
        return self.stages[bisect_right(self._firsts, step) - 1]

    def sequences(self, step: int) -> range:
        """The numbers n of the sequences of a step."""
        stage = self.at(step)
        first = stage.start + (step - stage.first) * stage.batch
        return range(first, first + stage.batch)

    def tokens_before(self, step: int) -> int:
        """The number of tokens of all steps before `step`, padding included."""
        return self.sequences(step).start * self.at(step).length

    def steps_of(self, numbers: np.ndarray, length: int) -> np.ndarray:
        """The step of each sequence n of `length` tokens; one outside all stages of this length gets the step that the
        nearest stage would reach it in."""
        stages = [stage for stage in self.stages if stage.length == length]
        starts = np.array([stage.start for stage in stages])
        at = np.maximum(np.searchsorted(starts, numbers, side="right") - 1, 0)
        first, batch = (np.array([getattr(stage, name) for stage in stages])[at] for name in ("first", "batch"))
        return first + (numbers - starts[at]) // batch


def stages_of(
    steps: int,
    length: int,
    batch: int,
    *,
    short_length: int | None = None,
    short_share: float = 0.9,
    warmup_start: int | None = None,
    warmup_steps: int = 0,
) -> Stages:
    """The stages of a run of `steps` steps of `batch` sequences of `length` tokens.

    With `short_length`, the first fraction `short_share` of the steps has sequences of that length, and as many more of
    them as keep the number of tokens per step constant. With `warmup_start`, the batch starts with that many sequences
    (of `length`) and doubles in equal intervals until it is `batch` at step `warmup_steps`. Raises UserError if
    `short_length` doesn't divide `length`, or if `batch` isn't a power of two times `warmup_start`.
    """
    phases = [(steps, length)]
    if short_length is not None:
        if short_length >= length or length % short_length:
            raise UserError(
                f"found --short_seq_length {short_length} beside --max_seq_length {length}, expected a smaller divisor "
                f"of it, such as {length // 4}: every step has the same number of tokens"
            )
        cut = round(short_share * steps)
        phases = [(cut, short_length)] * (cut > 0) + phases * (cut < steps)
    return stages_of_phases(phases, length, batch, warmup_start=warmup_start, warmup_steps=warmup_steps)


def stages_of_phases(
    phases: Sequence[tuple[int, int]],
    length: int,
    batch: int,
    *,
    warmup_start: int | None = None,
    warmup_steps: int = 0,
    cuts: int = 1,
) -> Stages:
    """The stages of a run whose phases are (step at which it ends, sequence length) each. A step has the tokens of
    `batch` sequences of `length`, whatever the length of its own; batch-size warm-up as in `stages_of`.

    Raises UserError if these tokens aren't a multiple of `cuts` sequences of a phase's length: each accumulation step
    of each device has equally many."""
    doublings = 0 if warmup_start is None else _doublings(warmup_start, batch)
    grows = [round(number * warmup_steps / doublings) for number in range(1, doublings + 1)]
    ends = [end for end, _ in phases]
    edges = sorted({0, *(edge for edge in (*ends, *grows) if 0 < edge < ends[-1]), ends[-1]})
    stages, tokens = [], 0
    for first, last in itertools.pairwise(edges):
        phase = bisect_right(ends, first)
        own_length = phases[phase][1]
        size = batch >> (doublings - bisect_right(grows, first))
        sequences, rest = divmod(size * length, own_length)
        if rest or sequences % cuts:
            raise UserError(
                f"found a phase with max_seq_length {own_length}, expected one of which the {size * length:,} tokens "
                f"of a step are a multiple of {cuts} sequences: {_fitting(size * length, own_length, cuts)}"
            )
        stages.append(Stage(first, last, own_length, sequences, tokens // own_length, phase))
        tokens += (last - first) * sequences * own_length
    return Stages(stages)


def _fitting(tokens: int, length: int, cuts: int) -> str:
    """Lengths near `length` that divide the tokens of a step into a multiple of `cuts` sequences."""
    fitting = [one for one in range(8, tokens + 1) if tokens % (one * cuts) == 0]
    near = sorted(sorted(fitting, key=lambda one: abs(one - length))[:4])
    return f"{', '.join(map(str, near))}" if near else "there is none, use a larger batch"


def _doublings(start: int, batch: int) -> int:
    doublings = round(math.log2(batch / start)) if 0 < start < batch else 0
    if doublings < 1 or start << doublings != batch:
        halves = [batch >> n for n in range(1, 12) if batch % (1 << n) == 0]
        raise UserError(
            f"found --batch_warmup_start {start}, expected the global batch of {batch} sequences halved once or more: "
            f"{', '.join(map(str, halves)) or 'it is odd'}"
        )
    return doublings


def steps_for(sequences: float, batch: int, warmup_start: int | None = None, warmup_steps: int = 0) -> int:
    """The number of steps in which a run sees `sequences` sequences of its full length, rounded up. `batch` is the
    global batch size; `warmup_start` and `warmup_steps` are those of `stages_of`."""
    if warmup_start is None:
        return math.ceil(sequences / batch)
    stages = stages_of(warmup_steps + 1, 1, batch, warmup_start=warmup_start, warmup_steps=warmup_steps)
    for stage in stages:
        if stage.last <= warmup_steps and sequences <= stage.start + (stage.last - stage.first) * stage.batch:
            return stage.first + math.ceil((sequences - stage.start) / stage.batch)
    return warmup_steps + math.ceil((sequences - stages.sequences(warmup_steps).start) / batch)


@dataclass(frozen=True)
class MaskingRateDecay:
    """The masking rate for sequences of one length: linear from `begin` at step `first` to `end` at step `last` - 1, by
    default the last of the run (Ankner et al., "Dynamic masking rate schedules for MLM pretraining", 2023)."""

    begin: float
    end: float
    stages: Stages
    length: int
    first: int = 0
    last: int | None = None

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """The masking rate of each sequence n."""
        steps = max(1, (self.last or self.stages.stages[-1].last) - 1 - self.first)
        done = (self.stages.steps_of(numbers, self.length) - self.first) / steps
        return self.begin + (self.end - self.begin) * np.clip(done, 0.0, 1.0)
