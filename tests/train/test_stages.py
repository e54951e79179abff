"""Stages of a run (invariant 4): sequence length, batch size and masking rate by step, and values that don't divide."""

import numpy as np
import pytest

from recipe.system.errors import UserError
from recipe.train.stages import MaskingRateDecay, stages_of, steps_for


def shapes(stages):
    return [(stage.first, stage.last, stage.length, stage.batch, stage.start) for stage in stages]


def test_a_plain_run_has_one_stage_of_consecutive_sequences():
    stages = stages_of(10, 512, 32)
    assert shapes(stages) == [(0, 10, 512, 32, 0)]
    assert [stages.sequences(step) for step in (0, 7)] == [range(32), range(224, 256)]
    assert stages.tokens_before(10) == 10 * 32 * 512


def test_short_sequences_come_first_with_the_same_tokens_per_step():
    stages = stages_of(20, 512, 8, short_length=128, short_share=0.9)
    assert shapes(stages) == [(0, 18, 128, 32, 0), (18, 20, 512, 8, 18 * 8)]
    assert [stages.tokens_before(step) for step in range(21)] == [step * 8 * 512 for step in range(21)]


def test_a_step_sees_the_same_sequences_as_in_a_run_with_its_length_throughout():
    stages = stages_of(20, 512, 8, short_length=128)
    for step in range(20):
        alone = stages_of(20, 128, 32) if step < 18 else stages_of(20, 512, 8)
        assert stages.sequences(step) == alone.sequences(step)


def test_the_batch_doubles_in_equal_intervals_and_skips_no_sequence():
    stages = stages_of(12, 64, 32, warmup_start=4, warmup_steps=6)
    assert [len(stages.sequences(step)) for step in range(12)] == [4, 4, 8, 8, 16, 16, *[32] * 6]
    numbers = [n for step in range(12) for n in stages.sequences(step)]
    assert numbers == list(range(len(numbers)))


def test_short_sequences_and_batch_warmup_together():
    stages = stages_of(20, 64, 8, short_length=16, short_share=0.5, warmup_start=4, warmup_steps=4)
    assert shapes(stages) == [(0, 4, 16, 16, 0), (4, 10, 16, 32, 64), (10, 20, 64, 8, 64)]
    assert stages.tokens_before(20) == (4 * 4 + 16 * 8) * 64
    # A run that ends within its warm-up, or before its long sequences, has no empty stage.
    assert [s.batch for s in stages_of(3, 64, 8, warmup_start=2, warmup_steps=4)] == [2, 4]
    assert [s.length for s in stages_of(1, 64, 8, short_length=16)] == [16]


@pytest.mark.parametrize("length", [16, 64])
def test_the_step_of_a_sequence(length):
    stages = stages_of(20, 64, 8, short_length=16, short_share=0.5, warmup_start=4, warmup_steps=4)
    for step in range(20):
        if stages.at(step).length == length:
            assert set(stages.steps_of(np.array(stages.sequences(step)), length)) == {step}


@pytest.mark.parametrize("sequences", [1, 4, 5, 8, 9, 24, 56, 57, 89, 1000])
def test_steps_for_an_epoch_with_a_growing_batch(sequences):
    steps = steps_for(sequences, 32, warmup_start=4, warmup_steps=6)
    stages = stages_of(steps + 1, 1, 32, warmup_start=4, warmup_steps=6)
    assert stages.sequences(steps - 1).start < sequences <= stages.sequences(steps).start
    assert steps_for(sequences, 32) == -(-sequences // 32)


def test_the_masking_rate_decays_from_the_first_step_to_the_last():
    stages = stages_of(11, 64, 4, warmup_start=2, warmup_steps=2)
    rate = MaskingRateDecay(0.3, 0.1, stages, 64)
    by_step = [rate(np.array(stages.sequences(step))) for step in range(11)]
    assert [len(set(rates)) for rates in by_step] == [1] * 11
    assert [rates[0] for rates in by_step] == pytest.approx([0.3 - 0.02 * step for step in range(11)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"short_length": 48},
            "short_seq_length 48 beside --max_seq_length 64, expected a smaller divisor of it, such as 16",
        ),
        ({"short_length": 64}, "expected a smaller divisor of it"),
        ({"warmup_start": 3, "warmup_steps": 5}, r"batch_warmup_start 3, expected the global batch of 8 .*: 4, 2, 1"),
        ({"warmup_start": 8, "warmup_steps": 5}, "batch_warmup_start 8"),
        ({"warmup_start": 0, "warmup_steps": 5}, "batch_warmup_start 0"),
    ],
)
def test_lengths_and_batches_that_do_not_divide_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        stages_of(20, 64, 8, **settings)
