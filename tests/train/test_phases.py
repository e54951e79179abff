"""The phases of a run: reading them, their steps, and mistakes in one line."""

import pytest

from recipe.system.errors import UserError
from recipe.train.phases import Phase, phases_of_schedule, read_phases, with_steps
from recipe.train.schedules import LR_SHAPES, phase_rates
from recipe.train.stages import stages_of_phases

GOOD = """
- {name: stable, share: 0.5, lr: 1}
- {name: long, share: 0.25, lr: 1, max_seq_length: 256, rope_theta: 160000}
- {share: 0.25, lr: [1, 0], lr_shape: sqrt, data: "wiki/=1 books/=3", mlm_probability: 0.2, objective: hybrid}
"""


@pytest.fixture
def read(tmp_path):
    def call(text):
        (tmp_path / "phases.yaml").write_text(text)
        return read_phases(str(tmp_path / "phases.yaml"))

    return call


def test_a_file_of_phases(read):
    stable, long, decay = read(GOOD)
    assert stable == Phase(name="stable", share=0.5, lr=(1.0, 1.0))
    assert (long.max_seq_length, long.rope_theta) == (256, 160000)
    assert decay.data == {"wiki/": 1.0, "books/": 3.0} and decay.lr == (1.0, 0.0) and decay.objective == "hybrid"
    assert read("- {share: 1, data: my_text/}")[0].data == {"my_text/": 1.0}
    resolved = with_steps([stable, long, decay], 10)
    assert [(phase.first, phase.last) for phase in resolved] == [(0, 5), (5, 8), (8, 10)]
    (first, second) = with_steps(read("- {steps: 30}\n- {steps: 12}"), 42)
    assert (first.last, second.first, second.last) == (30, 30, 42)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{share: 1}", "holds no list of phases"),
        ("- [", "is not YAML"),
        ("[]", "holds no list of phases"),
        ("- {share: 0.5}\n- {share: 0.4}", "sum to 0.9, expected 1"),
        ("- {share: 0.5}\n- {steps: 5}", "either a share of the steps each, or steps each"),
        ("- {share: 0.5, steps: 3}\n- {share: 0.5}", "either a share"),
        ("- {name: x}", "either a share"),
        ("- {share: 1, lenght: 5}", "phase 1 of .* has the unknown key lenght"),
        ("- {share: 1, first: 5}", "unknown key first"),
        ("- {share: 0}", "has share 0, expected a number above 0"),
        ("- {steps: 1.5}", "has steps 1.5, expected a whole number"),
        ("- {share: 1, max_seq_length: x}", "has max_seq_length x, expected a whole number"),
        ("- {share: 1, mlm_probability: 1.2}", "has mlm_probability 1.2"),
        ("- {share: 1, objective: nsp}", "has objective nsp, expected one of mlm, clm, hybrid"),
        ("- {share: 1, lr: 2}", "has lr 2, expected a share of the peak"),
        ("- {share: 1, lr: [1, 0, 1]}", "expected a share of the peak"),
        ("- {share: 1, lr: [1, x]}", "expected a share of the peak"),
        ("- {share: 1, lr: 1, lr_shape: step}", "has lr_shape step, expected one of linear, cosine, sqrt"),
        ("- {share: 1, rope_theta: true}", "has rope_theta True"),
        ("- {share: 0.5, lr: 1}\n- {share: 0.5}", "phase 2 of .* has no lr, others have one"),
        ('- {share: 1, data: "a=0 b=0"}', "weights that sum to 0"),
        ('- {share: 1, data: ""}', "has data , expected a dataset"),
    ],
)
def test_mistakes_in_a_file(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_phases_that_do_not_add_up_to_the_run(read):
    with pytest.raises(UserError, match=r"42 steps together, the run has 40 \(--max_steps\)"):
        with_steps(read("- {steps: 30}\n- {steps: 12}"), 40)
    with pytest.raises(UserError, match=r"phase 1 has no step: its share of 4 steps is 0\.1"):
        with_steps(read("- {share: 0.1}\n- {share: 0.9}"), 4)
    with pytest.raises(UserError, match=r"cannot read the phases of nowhere\.yaml"):
        read_phases("nowhere.yaml")


def test_an_objective_schedule():
    first, second = phases_of_schedule("clm:0.75 mlm:0.25")
    assert (first.objective, first.share, second.objective, second.share) == ("clm", 0.75, "mlm", 0.25)
    for wrong in ("clm", "clm:x", "nsp:1", "", "clm:0 mlm:1"):
        with pytest.raises(UserError, match="found --objective_schedule"):
            phases_of_schedule(wrong)
    with pytest.raises(UserError, match=r"sum to 0.9"):
        phases_of_schedule("clm:0.5 mlm:0.4")


def test_learning_rates_by_hand():
    pieces = [[0, 50, 1.0, 1.0, "linear"], [50, 70, 1.0, 0.5, "cosine"], [70, 110, 0.5, 0.0, "sqrt"]]

    def at(step, warmup=10):
        return phase_rates((step - warmup) / (110 - warmup), pieces, warmup)

    assert at(10) == at(49) == at(50) == 1.0
    assert at(60) == pytest.approx(0.75) and at(69) > 0.5
    assert at(70) == 0.5 and at(80) == pytest.approx(0.25) and at(110) == 0.0
    assert all(shape(0.0) == 0 and shape(1.0) == pytest.approx(1) for shape in LR_SHAPES.values())


def test_a_step_has_as_many_tokens_in_every_phase():
    stages = stages_of_phases([(10, 64), (14, 256), (20, 64)], 64, 16)
    assert [(s.first, s.last, s.length, s.batch, s.start, s.phase) for s in stages] == [
        (0, 10, 64, 16, 0, 0), (10, 14, 256, 4, 40, 1), (14, 20, 64, 16, 14 * 16, 2)
    ]  # fmt: skip
    assert {stages.tokens_before(step + 1) - stages.tokens_before(step) for step in range(19)} == {1024}
    with pytest.raises(
        UserError, match=r"max_seq_length 512, expected .* 1,024 tokens of a step .* 4 sequences: .*256"
    ):
        stages_of_phases([(10, 64), (20, 512)], 64, 16, cuts=4)
