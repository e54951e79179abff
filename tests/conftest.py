"""Fixtures out of tests/helpers/toy.py and tests/helpers/qa_toys.py, and one thread for all."""

import json
from pathlib import Path

import pytest
import torch
from qa_toys import write_squad
from toy import config_settings, toy_documents

import run_mlm
from recipe.data.tokenizer import train_tokenizer
from recipe.system.runtime import quiet_libraries

torch.set_num_threads(1)  # toy matrices: threads only cost, and sums keep one order
quiet_libraries()


@pytest.fixture(scope="session")
def documents():
    return toy_documents()


@pytest.fixture(scope="session")
def bpe(documents):
    return train_tokenizer(lambda: documents, kind="bpe", vocab_size=320, min_frequency=1)


@pytest.fixture(scope="session")
def wordpiece(documents):
    return train_tokenizer(lambda: documents, kind="wordpiece", vocab_size=100, min_frequency=1)


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """11 paragraphs to train on, 22 questions; long enough for two windows of 48 tokens each."""
    return write_squad(tmp_path_factory.mktemp("squad"), train=11, dev=4, sentences=6)


@pytest.fixture
def text_file(tmp_path, documents):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture
def write_config(tmp_path):
    def write(family: str = "roberta", **more) -> Path:
        path = tmp_path / f"{family}.json"
        path.write_text(json.dumps(config_settings(family, **more)))
        return path

    return write


@pytest.fixture
def run(tmp_path, text_file, write_config, monkeypatch, capsys):
    """Calls run_mlm.main(), or that of another `program`, with toy settings and `argv`, flags each followed by a value
    or a tuple of them; returns (exit code, what it printed)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))

    def call(*argv, program=run_mlm, family="roberta", config=None, do_train=True):
        settings = {
            "--config_name": str(config or write_config(family, vocab_size=400)),
            "--tokenizer_name": "train",
            "--vocab_size": "300",
            "--train_file": str(text_file),
            "--prepared_dir": str(tmp_path / "data"),
            "--output_dir": str(tmp_path / "run"),
            "--max_seq_length": "32",
            "--per_device_train_batch_size": "8",
            "--max_steps": "4",
            "--save_steps": "2",
            "--logging_steps": "1",
            "--learning_rate": "1e-2",
            "--use_cpu": "true",
            "--disable_tqdm": "true",
        }
        settings |= dict(zip(argv[::2], argv[1::2], strict=True))
        given = {flag: value if isinstance(value, tuple) else (value,) for flag, value in settings.items()}
        flat = [part for flag, values in given.items() if values != (None,) for part in (flag, *values)]
        monkeypatch.setattr("sys.argv", [f"{program.__name__}.py", *flat, *["--do_train"] * do_train, "--do_eval"])
        capsys.readouterr()
        return program.main(), capsys.readouterr().out

    return call


@pytest.fixture
def no_curve(monkeypatch):
    """Drawing panels takes seconds."""
    for module in ("page", "scores"):
        monkeypatch.setattr(f"recipe.report.{module}.draw", lambda frame, cells, file, **_: file.write(b"<svg/>"))
