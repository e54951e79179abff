"""Predictions for blanks: of one model, of all checkpoints of a run in order of steps, and interactively."""

import io

import pytest
import torch
from rich.console import Console
from toy import config_settings
from transformers import AutoConfig, pipeline

import fill_mask
from recipe.evaluate.fill_in import Filled, fill, fill_all, models_of, table_of
from recipe.model.checkpoints import commit
from recipe.model.loading import build_model
from recipe.system.errors import UserError

TEXT = "the ___ sat on a ___"


def save(folder, tokenizer, family="roberta", seed=0):
    torch.manual_seed(seed)
    build_model(AutoConfig.for_model(**config_settings(family, len(tokenizer)))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path, bpe):
    """A run folder with three checkpoints and the final model."""
    (tmp_path / "run").mkdir()
    for step in (500, 50_000, 5_000):
        commit(save(tmp_path / "staged", bpe, seed=step), tmp_path / "run" / f"checkpoint-{step}")
    return save(tmp_path / "run", bpe)


def test_a_run_stands_for_its_checkpoints_in_order_of_steps(run, bpe, tmp_path):
    warnings = []
    models = models_of([str(run), str(run / "checkpoint-500")], warnings.append)
    filled = list(fill_all(models, [TEXT, "___"], guesses=3))
    assert [(answer.step, answer.text) for answer in filled] == [
        (step, text) for text in (TEXT, "___") for step in (500, 5_000, 50_000)
    ]
    assert [len(answer.blanks) for answer in filled] == [2, 2, 2, 1, 1, 1] and not warnings
    shares = [[share for _, share in answer.blanks[0]] for answer in filled[:3]]
    assert shares[0] != shares[1] != shares[2] and all(row == sorted(row, reverse=True) for row in shares)
    (run / "checkpoint-5000" / "config.json").write_text("{}")
    assert [f.step for f in fill_all(models_of([str(run)], warnings.append), [TEXT])] == [500, 50_000]
    assert "checkpoint-5000 is damaged (config.json has 2 bytes" in warnings[0]


def test_predictions_equal_those_of_the_fill_mask_pipeline(run, bpe):
    folder = str(run / "checkpoint-500")
    (answer,) = fill_all([folder], ["the ___ sat on a mat"], guesses=4)
    expected = pipeline("fill-mask", model=folder)("the <mask> sat on a mat", top_k=4)
    assert [share for _, share in answer.blanks[0]] == pytest.approx([row["score"] for row in expected], rel=1e-4)
    assert [word for word, _ in answer.blanks[0]] == [bpe.decode([row["token"]]) for row in expected]


def test_a_blank_becomes_each_models_own_mask_token(run, wordpiece, tmp_path):
    bert = save(tmp_path / "bert", wordpiece, "bert")
    for text in ("the ___ sat", "the <mask> sat", "the [MASK] sat"):
        filled = list(fill_all([str(run / "checkpoint-500"), str(bert)], [text]))
        assert [(f.step, len(f.blanks)) for f in filled] == [(500, 1), (None, 1)]


def test_mistakes_are_refused(run, bpe, tmp_path):
    model, tokenizer = build_model(AutoConfig.for_model(**config_settings("roberta", len(bpe)))), bpe
    for text, message in (
        ("no blank", "write ___ or <mask> where one is"),
        ("cat " * 90 + "___", r"the model accepts at most 64"),
    ):
        with pytest.raises(UserError, match=message):
            fill(model, tokenizer, text)
    assert len(fill(model, tokenizer, "___", guesses=10_000)[0]) == len(tokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"found no config\.json and no checkpoints"):
        models_of([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="found no checkpoint at"):
        models_of([str(tmp_path / "none")])
    for step in run.glob("checkpoint-*"):
        (step / "manifest.json").unlink()
    with pytest.raises(UserError, match="none of the checkpoints in"):
        models_of([str(run)], lambda line: None)


def test_a_table_has_a_row_per_blank_and_model():
    answers = [
        Filled(f"run/checkpoint-{step}", step, "a [MASK] b ___", [[(" cat", 0.5), ("[red]", 0.25)]] * 2)
        for step in (1, 2)
    ]
    table = table_of(answers)
    assert [str(column.header) for column in table.columns] == ["blank", "model", "1", "2"] and table.row_count == 4
    assert str(table.title) == "a [MASK] b ___"
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    assert capture.get().count("[red] 25.0%") == 4 and "a [MASK] b ___" in capture.get()


def call(monkeypatch, capsys, *argv, typed=None):
    monkeypatch.setattr("sys.argv", ["fill_mask.py", *map(str, argv)])
    if typed is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    fill_mask.main()
    return capsys.readouterr().out


def test_the_program_answers_the_command_line_or_prompts_until_an_empty_line(run, monkeypatch, capsys):
    once = call(monkeypatch, capsys, run, TEXT, "the [MASK] sat", "--top_k", 2)
    assert once.count("%") == 2 * 3 * (2 + 1) and "run 50,000" in once and "the [MASK] sat" in once
    typed = f"{TEXT}\nno blank here\nthe ___ sat\n\nthe ___ never asked\n"
    asked = call(monkeypatch, capsys, run / "checkpoint-500", run / "checkpoint-5000", "--top_k", 2, typed=typed)
    assert asked.count("%") == 2 * 2 * (2 + 1) and "found no blank in 'no blank here'" in asked
    assert "never asked" not in asked and "2 models" in asked
    assert call(monkeypatch, capsys, run / "checkpoint-500", typed="").count("%") == 0
