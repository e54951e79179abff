"""Fixtures out of tests/toy.py, and one thread for all."""

import json
from pathlib import Path

import pytest
import torch
from toy import config_settings, toy_documents

from recipe.quiet import quiet_libraries
from recipe.tokenizer import train_tokenizer

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
