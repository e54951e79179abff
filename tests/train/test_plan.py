"""recipe.train.plan, calibration and describe: what a run will take, by hand; and the runs that make no sense."""

import json
import re
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks
from toy import sequences_of
from toy_trainers import make_trainer

from recipe.data.sources import Sources
from recipe.system.errors import UserError
from recipe.system.units import byte_size, count, time_span
from recipe.train import calibration
from recipe.train.calibration import FILE, Calibration, Conditions, calibrated
from recipe.train.plan import Plan, plan_of, require_plausible, require_time
from recipe.train.sequences import Sequences
from recipe.train.stages import stages_of

MEASURED = Calibration(
    micro_batch=8,
    sequence_seconds=0.5,
    fastest=0.9,
    slowest=1.2,
    evaluation_seconds=0.2,
    update_seconds=1.0,
    reduce_seconds=0.0,
    activation_bytes=1000,
)


def test_numbers_for_people():
    assert [count(n) for n in (7, 4_200, 4_200_000, 3e9)] == ["7", "4.2 k", "4.2 M", "3.0 G"]
    assert [byte_size(n) for n in (2_000, 5e6, 1.25e9, 3e12)] == ["2 kB", "5.0 MB", "1.2 GB", "3.0 TB"]
    assert time_span((50, 70)) == "50 to 70 seconds" and time_span((60, 150)) == "1.0 to 2.5 minutes"
    assert time_span((7200, 7200)) == "2.0 hours" and time_span((86_400, 864_000)) == "1.0 to 10.0 days"


@pytest.fixture
def planned(bpe, documents, tmp_path):
    """The plan of a toy run of 10 steps of 8 sequences, two evaluations of 4 sequences each, the second after the last step."""

    def plan(first_step=0, **stages):
        trainer = make_trainer(
            tmp_path, bpe, documents, steps=10, micro=8, eval_strategy="steps", eval_steps=5, do_eval=True
        )
        data, args = trainer.train_dataset, trainer.args
        evaluation = sequences_of(bpe, documents[:20])
        evaluation.counts = (4,)
        sequences = Sequences(stages_of(10, data.length, 8, **stages), data, (data, data), evaluation)
        about = SimpleNamespace(splits={"train": {"tokens": 3_000}, "validation": {"tokens": 300}})
        sources = Sources(("toy",), ("toy",), (about,))
        return plan_of(trainer.model, sources, sequences, args, MEASURED, 10**6, first_step)

    return plan


def test_time_by_hand(planned):
    # 10 steps of 8 x 0.5 s and an update of 1 s; 2 evaluations of 4 x 0.2 s; checkpoints take no time worth naming.
    low, high = planned().seconds
    assert low == pytest.approx(0.9 * (0.9 * 50 + 1.6), rel=1e-2) and high == pytest.approx(
        1.1 * (1.2 * 50 + 1.6), rel=1e-2
    )
    # After step 6 there are 4 steps and only the second evaluation.
    low, _ = planned(first_step=6).seconds
    assert low == pytest.approx(0.9 * (0.9 * 20 + 0.8), rel=1e-2) and planned(first_step=6).steps_left == 4
    # Steps of short sequences have as many tokens, and cost less only by attention.
    assert planned(short_length=16, short_share=0.5).seconds[0] < planned().seconds[0]


def test_counts_by_hand(planned, bpe, documents):
    plan = planned()
    assert (plan.steps, plan.tokens_per_step, plan.training_tokens) == (10, 8 * 32, 3_000)
    assert plan.epochs == pytest.approx(80 / len(sequences_of(bpe, documents)))
    assert plan.checkpoint == 12 * plan.parameters and plan.checkpoints == 6  # every second step, and the final weights
    assert plan.embedding_parameters == 320 * 16 and plan.memory >= 10**6 + 12 * plan.parameters + 1_000


def test_a_calibration_changes_nothing_and_is_kept(bpe, documents, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", bpe, documents, dropout=0.1)
    model, data, args = trainer.model, trainer.train_dataset, trainer.args
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    measured = calibrated(model, data, Conditions.of(args), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert measured.micro_batch == 8 and 0 < measured.sequence_seconds < 1 and measured.activation_bytes > 0
    assert measured.fastest <= 1 <= measured.slowest

    def again(*_):
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(calibration, "measure", again)
        assert calibrated(model, data, Conditions.of(args), tmp_path) == measured
        args.per_device_train_batch_size = 4
        with pytest.raises(AssertionError, match="measured again"):
            calibrated(model, data, Conditions.of(args), tmp_path)
    calibrated(model, data, Conditions.of(args), tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())) == 2


def test_ranks_whose_hosts_do_not_share_a_folder_agree_on_a_calibration(bpe, documents, tmp_path):
    """The first rank has a calibration of an earlier run, the second has none: neither waits for the other."""

    def work(rank):
        trainer = make_trainer(tmp_path / "run", bpe, documents, micro=8)
        common = trainer.model, trainer.train_dataset, Conditions.of(trainer.args)
        first = calibrated(*common, tmp_path / f"host{rank}")
        again = calibrated(*common, tmp_path / f"host{rank}")
        return [asdict(first), asdict(again)]

    for rank in range(2):
        (tmp_path / f"host{rank}").mkdir()
    one, two = run_ranks(2, work, tmp_path / "ranks")
    assert one[0] == one[1] == two[1] and one[0]["sequence_seconds"] == two[0]["sequence_seconds"]
    assert (tmp_path / "host0" / FILE).exists() and not (tmp_path / "host1" / FILE).exists()


def arguments(steps, batch=8, micro=8, allowed=()):
    return SimpleNamespace(
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        world_size=1,
        allow_implausible=list(allowed),
    )


class Corpus:
    length = 32

    def __init__(self, blocks):
        self.blocks = blocks

    def __len__(self):
        return self.blocks


@pytest.mark.parametrize(
    ("steps", "batch", "micro", "blocks", "found"),
    [
        (30_000, 8192, 64, 1_200, "epochs batch"),
        (30_000, 8, 8, 1_200, "epochs"),
        (2, 2_048, 64, 1_200, "batch"),
        (30_000, 8192, 64, 3, "epochs batch"),
    ],
)
def test_what_makes_no_sense_is_refused_with_settings_that_do(steps, batch, micro, blocks, found):
    stages, data = stages_of(steps, Corpus.length, batch), Corpus(blocks)
    with pytest.raises(UserError) as refused:
        require_plausible(stages, data, arguments(steps, batch, micro))
    (message,) = str(refused.value).splitlines()
    assert message.endswith(f"--allow_implausible {' '.join(reversed(found.split()))}")
    proposed = {name: int(value) for name, value in re.findall(r"--(\w+) (\d+)", message)}
    batch = proposed.get("global_batch_size", batch)
    micro = proposed.get("per_device_train_batch_size", micro)
    steps = proposed["max_steps"]
    require_plausible(stages_of(steps, Corpus.length, batch), data, arguments(steps, batch, micro))
    assert batch % micro == 0 and steps >= 1


def test_whoever_means_it_goes_on():
    stages, data = stages_of(30_000, Corpus.length, 8192), Corpus(1_200)
    require_plausible(stages, data, arguments(30_000, 8192, 64, allowed=("epochs", "batch")))
    with pytest.raises(UserError, match=r"--allow_implausible batch$"):
        require_plausible(stages, data, arguments(30_000, 8192, 64, allowed=("epochs",)))


def test_a_run_of_months_is_refused():
    known = dict.fromkeys(Plan.__dataclass_fields__, 0)
    plan = Plan(**known | {"seconds": (40 * 86_400.0, 60 * 86_400.0), "steps_left": 6_000})
    with pytest.raises(
        UserError, match=r"6,000 steps .* 40.0 to 60.0 days.*--max_steps 100, MAX_STEPS=100 .*implausible time"
    ):
        require_time(plan, SimpleNamespace(allow_implausible=[], max_hours=None))
    require_time(plan, SimpleNamespace(allow_implausible=["time"], max_hours=None))


def test_a_dry_run_prints_the_plan_and_leaves_nothing(run, tmp_path):
    code, printed = run("--dry_run", "plan")
    assert code == 0 and re.search(r"^time       .* (seconds|minutes) on this machine$", printed, flags=re.M)
    assert re.search(r"^memory     .* per process", printed, flags=re.M) and not (tmp_path / "run").exists()
    assert max(map(len, printed.splitlines())) <= 200
    code, printed = run("--dry_run", "json")
    plan = json.loads(printed[printed.index("{") :])
    assert plan["steps"] == 4 and plan["seconds"][0] <= plan["seconds"][1] and not (tmp_path / "run").exists()


def test_the_plan_is_kept_beside_what_was_measured(run, tmp_path):
    code, printed = run()
    kept = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert code == 0 and set(kept) == {"planned", "measured"} and "planned    " in printed
    assert kept["measured"]["seconds"] > 0 and kept["measured"]["memory"] > 10**8
