"""Trackers are checked before training and cannot stop it."""

import socket
import threading
from types import SimpleNamespace

import pytest
from toy_trainers import make_trainer
from transformers import TrainerCallback

from recipe.system.errors import UserError
from recipe.train import trackers
from recipe.train.trackers import Guarded, select_trackers


@pytest.fixture
def wandb_environment(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(trackers, "ANSWER_SECONDS", 0.3)
    return monkeypatch


def select():
    import os

    said = []
    select_trackers(SimpleNamespace(report_to=["wandb"]), said.append)
    return os.environ.get("WANDB_MODE"), said


def test_without_a_key_wandb_goes_offline_and_says_so(wandb_environment):
    mode, (said,) = select()
    assert mode == "offline" and "no API key" in said and "wandb sync wandb/offline-run-*" in said


def test_the_hint_names_the_folder_that_wandb_writes_to(wandb_environment, tmp_path):
    wandb_environment.setenv("WANDB_DIR", str(tmp_path))
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in select()[1][0]
    wandb_environment.delenv("WANDB_MODE")
    said = []
    select_trackers(SimpleNamespace(report_to=["wandb"]), said.append, tmp_path / "run" / "glue")
    assert f"wandb sync {tmp_path}/run/glue/wandb/offline-run-*" in said[0]


def test_a_server_that_is_gone_or_hangs_is_not_waited_for(wandb_environment):
    wandb_environment.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts in its backlog, never answers
        wandb_environment.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        assert select()[0] == "offline"
    wandb_environment.delenv("WANDB_MODE")
    mode, (said,) = select()
    assert mode == "offline" and "does not answer" in said


def test_a_server_that_answers_is_used(wandb_environment):
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wandb_environment.setenv("WANDB_API_KEY", "0" * 40)
    wandb_environment.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    assert select() == (None, [])
    server.shutdown()


def test_a_mode_that_was_chosen_stays(wandb_environment):
    wandb_environment.setenv("WANDB_MODE", "disabled")
    assert select() == ("disabled", [])


def test_a_tracker_that_is_not_installed_is_refused_before_the_run():
    with pytest.raises(UserError, match="pip install mlflow"):
        select_trackers(SimpleNamespace(report_to=["mlflow"]), print)


def test_a_tracker_that_fails_is_left_alone(tmp_path, bpe, documents, capsys):
    class Failing(TrainerCallback):
        calls = 0

        def on_log(self, *args, **kwargs):
            Failing.calls += 1
            raise RuntimeError("the server said no")

    trainer = make_trainer(tmp_path, bpe, documents, steps=3, callbacks=[Guarded(Failing())])
    trainer.train()
    assert trainer.state.global_step == 3 and Failing.calls == 1
    assert capsys.readouterr().out.count("Failing failed (the server said no)") == 1
