"""recipe.compare: metrics of resampled outcomes are those of scikit-learn and scipy, intervals cover as often as they
say, equal models are never told apart, and a sweep's outcomes give back its scores."""

import json
import subprocess
import sys

import numpy as np
import pytest
from glue_toys import sweep_here, toy_run, write_glue
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from toy import REPOSITORY

from recipe.compare.bootstrap import difference, mean_difference
from recipe.compare.differences import compare, rows_of, scored_in, verdict
from recipe.finetune.outcomes import FILE, metric_of, read_outcomes, write_outcomes
from recipe.finetune.results import read_results
from recipe.finetune.suites import SUITES

THEIRS = {
    "accuracy": lambda p, r: accuracy_score(r, p),
    "f1": lambda p, r: f1_score(r, p),
    "matthews_correlation": lambda p, r: matthews_corrcoef(r, p),
    "pearson": lambda p, r: pearsonr(p, r).statistic,
    "spearmanr": lambda p, r: spearmanr(p, r).statistic,
}


@pytest.mark.parametrize("metric", THEIRS)
def test_a_weighted_metric_is_that_of_the_repeated_examples(metric):
    generator = np.random.default_rng(1)
    reference = generator.integers(0, 2, 60) if metric in ("accuracy", "f1", "matthews_correlation") else None
    if reference is None:
        reference = np.round(generator.normal(size=60), 1)  # with ties
        prediction = reference + np.round(generator.normal(size=60), 1)
    else:
        prediction = np.where(generator.random(60) < 0.7, reference, 1 - reference)
    weights = generator.multinomial(60, np.full(60, 1 / 60), 5)
    found = metric_of(metric, {"prediction": prediction, "reference": reference}, weights)
    for row, value in zip(weights, found, strict=True):
        repeated = [np.repeat(values, row) for values in (prediction, reference)]
        assert value == pytest.approx(THEIRS[metric](*repeated), abs=1e-9)
    assert metric_of(metric, {"prediction": prediction, "reference": reference}) == pytest.approx(
        THEIRS[metric](prediction, reference)
    )
    constant = {"prediction": np.zeros(9), "reference": np.arange(9) % 2}
    assert metric_of(metric, constant) == pytest.approx(5 / 9 if metric == "accuracy" else 0.0)


def test_intervals_cover_the_true_difference_as_often_as_they_say():
    generator = np.random.default_rng(2)
    covered, trials = 0, 200
    for trial in range(trials):
        hard = generator.random(300) < 0.5  # examples that both get wrong more often
        first, second = (generator.random(300) < np.where(hard, 0.4, high) for high in (0.8, 0.9))
        found = difference("accuracy", [{"accuracy": first * 1.0}], [{"accuracy": second * 1.0}], trial)
        covered += found.low <= 0.05 <= found.high
    assert 0.90 <= covered / trials <= 0.99


def test_equal_models_are_not_told_apart_and_different_ones_are():
    generator = np.random.default_rng(3)
    right = (generator.random(500) < 0.7) * 1.0
    same = difference("accuracy", [{"accuracy": right}], [{"accuracy": right}])
    assert not same.told_apart and same.value == same.low == same.high == 0.0 and same.p_value == 1.0
    better = np.where(generator.random(500) < 0.3, 1.0, right)
    found = difference("accuracy", [{"accuracy": right}], [{"accuracy": better}])
    assert found.told_apart and found.value > 0.05 and found.p_value < 1e-6
    # Seeds that differ widen the interval.
    worse = np.where(generator.random(500) < 0.3, 0.0, right)
    seeds = difference("accuracy", [{"accuracy": right}] * 2, [{"accuracy": worse}, {"accuracy": better}])
    assert seeds.high - seeds.low > 2 * (found.high - found.low) and seeds.p_value is None
    mean = mean_difference([found, same])
    assert mean.value == pytest.approx(found.value / 2) and mean.told_apart


def test_outcomes_are_small_and_come_back(tmp_path):
    labels = np.arange(40_000) % 3
    file = write_outcomes(tmp_path, {"validation": {"prediction": labels, "reference": labels}})
    assert file.stat().st_size < 20_000
    assert (read_outcomes(tmp_path, "validation", "accuracy")["prediction"] == labels).all()
    assert read_outcomes(tmp_path, "test", "accuracy") is None
    file.write_bytes(b"damaged")
    assert read_outcomes(tmp_path, "validation", "accuracy") is None


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    run, glue = toy_run(folder / "toy"), write_glue(folder / "glue", rows=32, dev=24)
    with pytest.MonkeyPatch.context() as patch:
        code, _ = sweep_here(patch)([
            "--runs", str(run), f"random:{run}", "--tasks", "rte", "stsb", "--seeds", "1", "2", "--glue_data", str(glue),
            "--max_steps", "3", "--max_seq_length", "32", "--use_cpu", "true", "--prepared_dir", str(folder / "data"),
        ])  # fmt: skip
    assert code == 0
    return run


def test_outcomes_of_a_sweep_give_its_scores(swept):
    scored = scored_in(swept / "glue")
    assert len(scored) == len(read_results(swept / "glue")) == 12
    for job in scored:
        for split, metrics in job.record["metrics"].items():
            for metric in metrics.keys() - {"loss"}:
                arrays = read_outcomes(job.kept, split, metric)
                assert metric_of(metric, arrays) == pytest.approx(metrics[metric], abs=1e-6)


def test_two_rows_are_compared_by_path_name_or_run(swept):
    rows = {row.column: row for row in compare(str(swept / "checkpoint-10"), str(swept))}
    assert set(rows) == {"RTE", "STS-B"} and rows["RTE"].seeds == (2, 2)
    assert rows["RTE"].found.low <= rows["RTE"].found.value <= rows["RTE"].found.high
    by_name = {row.column: row for row in compare("toy/checkpoint-10", "toy/checkpoint-20", str(swept / "glue"))}
    assert by_name["STS-B"].found.value == rows["STS-B"].found.value
    sentence = verdict(swept / "glue", SUITES["glue"])
    assert sentence.startswith("toy/checkpoint-20 and random:toy: ") and "told apart on " in sentence
    assert f"- {sentence}" in (swept / "glue" / "glue.md").read_text()


def test_what_cannot_be_compared_says_why(swept, tmp_path):
    scored = scored_in(swept / "glue")
    first = [job for job in scored if job.record["checkpoint"]["step"] == 10]
    second = [job for job in scored if job.record["checkpoint"]["step"] == 20]
    other = [type(job)(json.loads(json.dumps(job.record)), job.kept) for job in second]
    for job in other:
        job.record["examples"]["validation"]["sha256"] = "other"
    assert {row.reason for row in rows_of(first, other)} == {"scored on other examples"}
    kept_nothing = [type(job)(job.record, tmp_path / "none") for job in second]
    assert {row.reason for row in rows_of(first, kept_nothing)} == {"no outcomes kept: score them again"}
    only_rte = [job for job in second if job.record["task"] == "rte"]
    assert {row.column: row.reason for row in rows_of(first, only_rte)}["STS-B"] == "scored for one of them alone"


def test_the_command_prints_a_table_of_80_columns_or_json(swept):
    command = [sys.executable, "-m", "recipe.compare", f"random:{swept}", str(swept)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines()[3:])) <= 80, done.stdout + done.stderr
    assert "told apart" in done.stdout and "RTE" in done.stdout
    done = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True)
    found = json.loads(done.stdout)["columns"]["RTE"]
    assert found["low"] <= found["difference"] <= found["high"] and isinstance(found["told_apart"], bool)
    done = subprocess.run([*command[:-1], "nobody"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "found no scores of nobody" in done.stderr


def test_files_of_outcomes_lie_beside_the_records(swept):
    assert len(list((swept / "glue" / "jobs").rglob(FILE))) == 12
