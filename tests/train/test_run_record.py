"""The record of a run, run.json: its content, and the resume signature, which may not change when a run is resumed."""

import json

import pytest

from recipe.system.errors import UserError
from recipe.train.run_record import record_run


def test_a_changed_signature_is_refused_with_both_values_and_other_settings_may_change(tmp_path):
    first = record_run(tmp_path, {"seed": 1, "model": {"hidden_size": 16}}, {"logging_steps": 5})
    again = record_run(tmp_path, {"seed": 1, "model": {"hidden_size": 16}}, {"logging_steps": 9})
    assert first["wandb_run_id"] == again["wandb_run_id"]  # one curve, whatever the number of resumes
    with pytest.raises(UserError, match=r"begun with seed 1, now it is 2.*--allow_changed seed"):
        record_run(tmp_path, {"seed": 2, "model": {"hidden_size": 16}}, {})
    assert json.loads((tmp_path / "run.json").read_text())["meaning"]["seed"] == 1


def test_an_allowed_change_is_recorded(tmp_path):
    record_run(tmp_path, {"seed": 1}, {})
    record_run(tmp_path, {"seed": 2}, {}, allow_changed="seed")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["meaning"]["seed"] == 2 and record["history"] == [{"changed": {"seed": [1, 2]}}]
    with pytest.raises(UserError, match="names sed, expected some of seed"):
        record_run(tmp_path, {"seed": 2}, {}, allow_changed="sed")


def test_the_record_has_versions_and_command_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_mlm.py", "--token", "hf_secret", "--hub_token=hf_other", "--seed", "1"])
    record_run(tmp_path, {"seed": 1}, {})
    text = (tmp_path / "run.json").read_text()
    record = json.loads(text)
    assert "hf_secret" not in text and "hf_other" not in text and record["command"][-1] == "1"
    assert record["packages"]["torch"] and record["packages"]["transformers"]
