"""recipe.report.publish: what is kept of a run is all that a reader needs, and nothing else."""

import json
from pathlib import Path

import pandas as pd
import pytest
from test_page import LOG, Page, no_blanks, toy_run, write_log, write_scores

from recipe.report.page import report_of
from recipe.report.publish import publish
from recipe.report.scores import rebuild
from recipe.system.errors import UserError


def test_what_is_kept_makes_the_same_page_without_weights_or_paths(tmp_path, monkeypatch, no_curve):
    monkeypatch.chdir(tmp_path)
    run = write_log(toy_run(tmp_path / "runs" / "toy"))
    write_scores(run)
    rebuild(run / "glue")
    sweep = {"command": [str(tmp_path / "recipe" / "sweep.py"), "--runs", str(run)]}
    (run / "glue" / "run.json").write_text(json.dumps(sweep))
    kept = Path("results/first")
    publish(run, kept)
    first = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    publish(run, kept)  # again: replaced by the same
    assert first == {file: file.read_bytes() for file in first}
    files = {str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()}
    assert files == {
        "run.json", "log.jsonl", "loss.svg", "learning_rate.svg", "speed.svg",
        "glue/glue.csv", "glue/glue.md", "glue/glue.png", "glue/run.json",
    }  # fmt: skip
    assert not any(str(tmp_path) in (kept / file).read_text() for file in files)
    assert "runs/toy/checkpoint-20" in set(pd.read_csv(kept / "glue" / "glue.csv")["path"])
    assert (kept / "log.jsonl").read_text().count("\n") == len(LOG)
    page, original = (Page(report_of([folder], no_blanks())) for folder in (kept, run))
    assert page.scores() == original.scores()
    assert "python -m recipe.sweep \\ --runs runs/toy" in page.text


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"found no log.jsonl in .*: expected a run's folder"):
        publish(tmp_path, tmp_path / "kept")
    write_log(tmp_path)
    with pytest.raises(UserError, match="name another folder"):
        publish(tmp_path, tmp_path / "x" / "..")
    assert not (tmp_path / "x").exists()
