"""Trackers are configured before training and cannot stop it."""

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


def select_wandb():
    """(WANDB_MODE, messages) after select_trackers."""
    import os

    messages = []
    select_trackers(SimpleNamespace(report_to=["wandb"]), messages.append)
    return os.environ.get("WANDB_MODE"), messages


def test_without_an_api_key_wandb_is_offline_with_a_message(wandb_environment):
    mode, (message,) = select_wandb()
    assert mode == "offline" and "no API key" in message and "wandb sync wandb/offline-run-*" in message


def test_the_hint_names_the_folder_that_wandb_writes_to(wandb_environment, tmp_path):
    wandb_environment.setenv("WANDB_DIR", str(tmp_path))
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in select_wandb()[1][0]
    wandb_environment.delenv("WANDB_MODE")
    messages = []
    select_trackers(SimpleNamespace(report_to=["wandb"]), messages.append, tmp_path / "run" / "glue")
    assert f"wandb sync {tmp_path}/run/glue/wandb/offline-run-*" in messages[0]


def test_a_server_that_is_down_or_hangs_means_offline(wandb_environment):
    wandb_environment.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts in its backlog, never answers
        wandb_environment.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        assert select_wandb()[0] == "offline"
    wandb_environment.delenv("WANDB_MODE")
    mode, (message,) = select_wandb()
    assert mode == "offline" and "does not answer" in message


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
    assert select_wandb() == (None, [])
    server.shutdown()


def test_a_mode_that_the_user_set_is_kept(wandb_environment):
    wandb_environment.setenv("WANDB_MODE", "disabled")
    assert select_wandb() == ("disabled", [])


def test_a_tracker_that_is_not_installed_is_refused():
    with pytest.raises(UserError, match="pip install mlflow"):
        select_trackers(SimpleNamespace(report_to=["mlflow"]), print)


def test_a_tracker_that_fails_is_not_called_again(tmp_path, bpe, documents, capsys):
    class Failing(TrainerCallback):
        calls = 0

        def on_log(self, *args, **kwargs):
            Failing.calls += 1
            raise RuntimeError("the server said no")

    trainer = make_trainer(tmp_path, bpe, documents, steps=3, callbacks=[Guarded(Failing())])
    trainer.train()
    assert trainer.state.global_step == 3 and Failing.calls == 1
    assert capsys.readouterr().out.count("Failing failed (the server said no)") == 1
