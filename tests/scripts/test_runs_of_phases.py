"""Mixtures, phases and branches from the command line: same bits after a kill, wherever it falls."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from toy import toy_documents
from transformers import AutoConfig, AutoModelForMaskedLM

import run_clm
from recipe.model.checkpoints import checkpoints, step_of
from recipe.programs import mlm
from recipe.system.errors import UserError
from recipe.train.trainer import PretrainTrainer

PHASES = """
- {share: 0.5, lr: 1}
- {name: long, share: 0.25, lr: [1, 0.5], max_seq_length: 64, rope_theta: 90000, mlm_probability: 0.3}
- {share: 0.25, lr: [0.5, 0], lr_shape: sqrt, data: "b.txt=3 c.txt=1", objective: hybrid}
"""


@pytest.fixture
def texts(tmp_path):
    """Three small sources, and the flags of a run on a mixture of two of them."""
    for number, name in enumerate("abc"):
        documents = toy_documents(400)[number * 120 : (number + 1) * 120]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(documents))
    (tmp_path / "phases.yaml").write_text(PHASES)
    return (
        "--train_file",
        None,
        "--dataset_name",
        "a.txt=2 b.txt=1",
        "--dropout",
        "0.1",
        "--validation_split_percentage",
        "10",
    )


@pytest.fixture
def killed_at(monkeypatch):
    """Makes training die in these steps, one after another, once each."""
    whole = PretrainTrainer.training_step

    def arrange(steps):
        left = list(steps)

        def training_step(self, *args, **kwargs):
            if left and self.state.global_step == left[0]:
                raise KeyboardInterrupt(left.pop(0))
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(PretrainTrainer, "training_step", training_step)

    return arrange


def bits(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def logged(folder, *keys):
    lines = [json.loads(line) for line in (folder / "log.jsonl").open()]
    return [tuple(line.get(key) for key in keys) for line in lines if "loss" in line]


def test_a_run_of_phases_and_mixtures_killed_at_every_border_ends_with_the_same_bits(run, texts, tmp_path, killed_at):
    flags = (*texts, "--phases", "phases.yaml", "--max_steps", "20", "--save_steps", "3")
    code, printed = run(*flags, "--output_dir", "whole", family="modernbert")
    assert code == 0
    for part in ("long       steps 11 to 15: 4 sequences of 64", "rotary base 90,000", "a.txt 66.7%", "c.txt 25.0%"):
        assert part in printed, part
    killed_at([2, 9, 10, 11, 14, 15, 16, 19])
    for _ in range(8):
        with pytest.raises(KeyboardInterrupt):
            run(*flags, "--output_dir", "killed", family="modernbert")
    assert run(*flags, "--output_dir", "killed", family="modernbert")[0] == 0
    assert bits(tmp_path / "whole") == bits(tmp_path / "killed")
    keys = ("loss", "learning_rate", "epoch_a.txt", "epoch_b.txt", "epoch_c.txt")
    assert logged(tmp_path / "whole", *keys) == logged(tmp_path / "killed", *keys)
    # A checkpoint has the rotary base of its own last step.
    bases = {
        step_of(folder): AutoConfig.from_pretrained(folder).rope_parameters["full_attention"]["rope_theta"]
        for folder in checkpoints(tmp_path / "whole")
    }
    assert {step for step, base in bases.items() if base == 90_000} == {12, 15, 18, 20}
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text())
    own = [results[f"eval_loss_{name}.txt"] for name in "abc"]
    assert min(own) < results["eval_loss"] < max(own)
    card = (tmp_path / "whole" / "README.md").read_text()
    for part in (
        "`a.txt` (weight 2), `b.txt` (weight 1)",
        "| loss on b.txt |",
        "| phase 2 | steps 11 to 15: max_seq_length 64, mlm_probability 0.3, lr 1 to 0.5,",
        "| phase 3 | steps 16 to 20: data b.txt=3 c.txt=1, objective hybrid,",
        "| sha256 of the prepared c.txt |",
    ):
        assert part in card, part
    plan = json.loads((tmp_path / "whole" / "plan.json").read_text())["planned"]
    assert plan["source_epochs"].keys() == {"a.txt", "b.txt", "c.txt"}
    assert [round(v, 4) for v in plan["source_epochs"].values()] == list(logged(tmp_path / "whole", *keys[2:])[-1])
    with pytest.raises(UserError, match="begun with phases"):
        (tmp_path / "phases.yaml").write_text(PHASES.replace("90000", "80000"))
        run(*flags, "--output_dir", "killed", family="modernbert")
    with pytest.raises(UserError, match="begun with mixture"):
        run(
            *texts[:3],
            "a.txt=1 b.txt=1",
            *texts[4:],
            *flags[len(texts) :],
            "--output_dir",
            "killed",
            family="modernbert",
        )


def test_a_phase_goes_on_where_the_earlier_ones_left_each_source(run, texts, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text('- {share: 0.5}\n- {share: 0.5, data: "b.txt=3 c.txt=1"}')
    seen = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: seen.append(parts[3]) or 0)
    run(*texts, "--phases", "own.yaml", "--max_steps", "64")
    (sequences,) = seen
    stages, first = sequences.stages, len(sequences.train.blocks.sources[0])
    second = first + len(sequences.train.blocks.sources[1])
    numbers = [stages.sequences(step) for step in range(64)]
    blocks = np.concatenate([sequences.of_phases[step // 32].block_ids(numbers[step]) for step in range(64)])
    own = blocks[(blocks >= first) & (blocks < second)]  # of b.txt, which both phases read
    count = second - first
    assert len(own) == pytest.approx(256 / 3 + 256 * 3 / 4, abs=2) and len(own) > count
    assert sorted(own[:count]) == list(range(first, second))  # an epoch goes over the border
    assert sequences.epochs(64)["b.txt"] == pytest.approx(len(own) / count)


def test_a_masking_rate_decays_within_its_phase(run, texts, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text(
        "- {share: 0.5}\n- {share: 0.25, mlm_probability_end: 0.05}\n- {share: 0.25, mlm_probability: 0.3}"
    )
    seen = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: seen.append(parts[3]) or 0)
    run(*texts, "--phases", "own.yaml", "--max_steps", "16")
    (sequences,) = seen
    rates = [
        float(sequences.of_phases[sequences.stages.at(step).phase].masking.rates(np.array([first]))[0])
        for step in range(16)
        for first in [sequences.stages.sequences(step).start]
    ]
    assert rates == pytest.approx([0.15] * 8 + [0.15, 0.35 / 3, 0.25 / 3, 0.05] + [0.3] * 4)


def test_a_mixture_alone_and_its_evaluation_by_source(run, texts, tmp_path):
    code, printed = run(*texts, "--eval_strategy", "steps", "--eval_steps", "2", "--max_eval_samples", "2")
    assert code == 0 and "= a.txt " in printed
    evals = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open() if "eval_loss" in line]
    assert all({"eval_loss_a.txt", "eval_loss_b.txt"} <= line.keys() for line in evals)
    (_, seen_a, seen_b) = logged(tmp_path / "run", "loss", "epoch_a.txt", "epoch_b.txt")[-1]
    assert seen_a > 0 and seen_b > 0
    code, printed = run(*texts, "--do_eval", "true", do_train=False)
    assert code == 0


def test_a_temperature_makes_shares_of_sizes(run, texts, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n\n".join(toy_documents(360)))  # some three times the others
    shares = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: shares.append(parts[3].of_phases[0].turns.shares) or 0)
    equal = (*texts[:3], "a.txt=1 b.txt=1", *texts[4:])
    for more in ((), ("--mixture_temperature", "1"), ("--mixture_temperature", "1000")):
        run(*equal, *more)
    assert shares[0] == (500, 500) and 700 < shares[1][0] < 800 and 500 <= shares[2][0] <= 501


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset_name", "a.txt=0 b.txt=0"), "weights that sum to 0"),
        (
            ("--dataset_name", "a.txt=1 tiny.txt=1"),
            r"the training text of tiny.txt has \d+ tokens, expected at least 30",
        ),
        (
            ("--dataset_name", "a.txt=1 b.txt=1", "--validation_file", "c.txt"),
            "found --validation_file beside a mixture",
        ),
        (("--phases", "phases.yaml", "--short_seq_length", "16"), "found --phases beside --short_seq_length"),
        (("--phases", "phases.yaml", "--max_hours", "1"), "found --phases beside --max_hours"),
        (
            ("--phases", "one.yaml", "--lr_scheduler_type", "cosine"),
            "found --lr_scheduler_type cosine beside phases",
        ),
        (("--phases", "phases.yaml"), "phase 2 has rope_theta, a roberta model has no rotary positions"),
        (("--phases", "phases.yaml", "--objective_schedule", "clm:1"), "found --objective_schedule beside --phases"),
        (("--branch_from", "nowhere"), "cannot resume from nowhere"),
    ],
)
def test_mistakes_are_one_line_before_the_first_step(run, texts, tmp_path, flags, message):
    (tmp_path / "tiny.txt").write_text("one\n\ntwo")
    (tmp_path / "one.yaml").write_text("- {share: 1, lr: [1, 0]}")
    with pytest.raises(UserError, match=message):
        run(*texts, *flags)
    assert not (tmp_path / "run").exists()


def test_a_causal_run_has_phases_of_data_and_length_alone(run, texts, tmp_path):
    (tmp_path / "own.yaml").write_text("- {share: 0.5}\n- {share: 0.5, max_seq_length: 16, data: c.txt}")
    code, printed = run(*texts, "--phases", "own.yaml", program=run_clm)
    assert code == 0 and "16 sequences of 16" in printed and "c.txt 100.0%" in printed
    (tmp_path / "own.yaml").write_text("- {share: 1, mlm_probability: 0.2}")
    with pytest.raises(UserError, match=r"phase 1 has mlm_probability, which run_clm.py doesn't use"):
        run(*texts, "--phases", "own.yaml", program=run_clm)


# ---- branches

STABLE = (
    "--lr_scheduler_type",
    "constant_with_warmup",
    "--warmup_steps",
    "2",
    "--max_steps",
    "12",
    "--save_steps",
    "4",
)


def decay(steps):
    return (
        "--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", json.dumps({"num_decay_steps": 4}),
        "--warmup_steps", "2", "--max_steps", str(steps), "--save_steps", "4",
    )  # fmt: skip


def test_a_branch_has_the_bits_of_a_run_that_was_one_from_the_start(run, texts, tmp_path, killed_at):
    run(*texts, *STABLE, "--output_dir", "stable")
    for begin in (4, 8):
        steps = begin + 4
        run(*texts, *decay(steps), "--output_dir", f"whole-{steps}")
        branch = (
            *texts,
            *decay(steps),
            "--output_dir",
            f"branch-{steps}",
            "--branch_from",
            f"stable/checkpoint-{begin}",
        )
        killed_at([steps - 2])
        with pytest.raises(KeyboardInterrupt):
            run(*branch)
        assert run(*branch)[0] == 0
        whole, branched = tmp_path / f"whole-{steps}", tmp_path / f"branch-{steps}"
        assert bits(whole) == bits(branched)
        assert logged(whole, "step", "loss", "learning_rate") == logged(branched, "step", "loss", "learning_rate")
        (begun,) = json.loads((branched / "run.json").read_text())["history"]
        assert begun["resumed_from"] == f"stable/checkpoint-{begin}" and "lr_scheduler_type" in begun["changed"]
        assert "is done" in run(*branch)[1]


def test_phases_branch_too(run, texts, tmp_path):
    (tmp_path / "one.yaml").write_text("- {steps: 12, lr: 1}")
    (tmp_path / "two.yaml").write_text("- {steps: 4, lr: 1}\n- {steps: 4, lr: [1, 0], data: c.txt}")
    start = (*texts, "--max_steps", "-1", "--warmup_steps", "2", "--save_steps", "4")
    run(*start, "--phases", "one.yaml", "--output_dir", "stable")
    # A branch may add sources, but not with a tokenizer that is trained on them.
    start = (*start, "--tokenizer_name", "stable", "--vocab_size", None)
    run(*start, "--phases", "two.yaml", "--output_dir", "whole")
    assert step_of(checkpoints(tmp_path / "whole")[-1]) == 8
    branch = (*start, "--phases", "two.yaml", "--output_dir", "branch", "--branch_from", "stable/checkpoint-4")
    assert run(*branch)[0] == 0
    assert bits(tmp_path / "whole") == bits(tmp_path / "branch")
    (tmp_path / "three.yaml").write_text("- {steps: 4, lr: 1}\n- {steps: 6, lr: 1, data: c.txt}")
    with pytest.raises(UserError, match="whose run had other phases up to it"):
        run(*start, "--phases", "three.yaml", "--output_dir", "no", "--branch_from", "stable/checkpoint-8")
    with pytest.raises(UserError, match=r"other phases up to it: .*c\.txt.* here: begin with the same"):
        other = (*start[:3], "a.txt=2 c.txt=1", *start[4:])
        run(*other, "--phases", "one.yaml", "--output_dir", "no", "--branch_from", "stable/checkpoint-8")


def test_a_branch_from_a_decayed_checkpoint_is_refused(run, texts, tmp_path):
    run(*texts, *decay(8), "--output_dir", "decayed", "--save_steps", "2")
    for step, wrong in ((6, True), (4, False)):
        named = ("--branch_from", f"decayed/checkpoint-{step}", "--output_dir", f"more-{step}")
        if wrong:
            with pytest.raises(
                UserError, match=r"had the learning rate .* in step 6, where this one has .* before the"
            ):
                run(*texts, *decay(12), *named)
            assert not (tmp_path / f"more-{step}").exists()
        else:
            assert run(*texts, *decay(12), *named)[0] == 0
    with pytest.raises(UserError, match="expected --max_steps above 4, not 4"):
        run(*texts, *STABLE, "--max_steps", "4", "--branch_from", "decayed/checkpoint-4", "--output_dir", "short")
    (tmp_path / "decayed" / "run.json").unlink()
    with pytest.raises(UserError, match=r"without a run.json beside it"):
        run(*texts, *decay(12), "--branch_from", "decayed/checkpoint-4", "--output_dir", "unknown")


# ---- objectives


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_a_causal_phase_of_a_masked_model(run, texts, tmp_path, family, killed_at):
    flags = (*texts, "--objective_schedule", "clm:0.5 hybrid:0.25 mlm:0.25", "--max_steps", "8")
    code, printed = run(*flags, "--output_dir", "whole", family=family)
    assert code == 0 and "causal" in printed and "masked and causal" in printed
    killed_at([3, 4, 5, 7])
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(*flags, "--output_dir", "killed", family=family)
    assert run(*flags, "--output_dir", "killed", family=family)[0] == 0
    assert bits(tmp_path / "whole") == bits(tmp_path / "killed")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "whole")  # a plain masked model
    assert not getattr(AutoConfig.from_pretrained(tmp_path / "whole"), "is_decoder", False)
    with pytest.raises(UserError, match="begun with objective_schedule"):
        run(*texts, "--objective_schedule", "mlm:1", "--max_steps", "8", "--output_dir", "killed", family=family)


@pytest.mark.parametrize("document_attention", ["true", "false"])
@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
def test_nothing_of_later_tokens_reaches_a_prediction_in_a_causal_step(
    run, texts, monkeypatch, family, document_attention
):
    seen = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: seen.append((parts[0], parts[3])) or 0)
    run(*texts, "--objective_schedule", "clm:0.5 mlm:0.5", "--document_attention", document_attention, family=family)
    ((model, sequences),) = seen
    model.eval()
    batch = sequences.of_phases[0].__getitems__(range(2))
    assert batch["causal"] and torch.equal(batch["labels"][0], batch["input_ids"][0, 1:-1])
    embeddings = model.get_input_embeddings()
    kept = []
    hook = embeddings.register_forward_hook(lambda module, given, output: kept.append(output) or output.retain_grad())
    place = 13
    labels = torch.full_like(batch["labels"], -100)
    labels[:, place] = batch["labels"][:, place]
    model(**batch | {"labels": labels})["loss"].backward()
    hook.remove()
    reached = kept[0].grad.abs().sum(-1)
    assert (reached[:, place + 1 :] == 0).all() and (reached[:, place] > 0).all()
    # The same logits come from a text that ends there.
    for length in (place + 1, place + 5):
        cut = {name: value[:, :length] for name, value in batch.items() if name not in ("causal", "labels")}
        short = model(**cut | {"labels": labels[:, :length], "causal": True})["loss"]
        assert short.item() == pytest.approx(model(**batch | {"labels": labels})["loss"].item(), abs=1e-5)


def test_one_step_in_sixteen_of_a_hybrid_is_causal(run, texts, monkeypatch):
    seen = []
    monkeypatch.setattr(mlm, "pretrain", lambda *parts: seen.append(parts[3]) or 0)
    run(*texts, "--objective_schedule", "hybrid:1", "--max_steps", "64")
    (sequences,) = seen
    data = sequences.of_phases[0]
    causal = [step for step in range(64) if "causal" in data.__getitems__(sequences.stages.sequences(step))]
    assert causal == [15, 31, 47, 63]
    for step, part in itertools.product((14, 15), range(0, 8, 2)):  # in micro-batches, too
        first = sequences.stages.sequences(step).start
        assert ("causal" in data.__getitems__(range(first + part, first + part + 2))) == (step == 15)
