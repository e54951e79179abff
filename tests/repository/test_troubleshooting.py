"""docs/troubleshooting.md: every quoted symptom is reproduced, and the output is compared with the page."""

import contextlib
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from glue_toys import write_glue
from safetensors.torch import load_file, save_file
from toy import REPOSITORY, toy_documents, until

from recipe.data.tokenizer import save_tokenizer, train_tokenizer
from recipe.finetune.glue.rows import read_glue
from recipe.finetune.glue.tasks import TASKS
from recipe.launch.world import announced_world
from recipe.system.errors import UserError
from recipe.train.trackers import select_trackers

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^### (.+?)\n\n```text\n(.+?)\n```", PAGE, flags=re.M | re.S)
REPRODUCE: dict[str, Callable] = {}


def symptom(heading: str):
    """Registers a function that reproduces the symptom under `heading`; it gets a `Bench`."""

    def register(reproduce: Callable) -> Callable:
        REPRODUCE[heading] = reproduce
        return reproduce

    return register


class Bench:
    """Toy runs in FOLDER/runs/NAME, on the text FOLDER/my_corpus/text.txt."""

    def __init__(self, run, folder: Path, write_config, monkeypatch):
        self._run, self.folder, self.write_config, self.monkeypatch = run, folder, write_config, monkeypatch
        self.name = folder / "runs" / "NAME"
        monkeypatch.setattr("sys.stderr", sys.stdout)  # `run` returns what was printed there
        (folder / "my_corpus").mkdir()
        self.text = self.write("text.txt", "\n\n".join(toy_documents(200)))

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.folder / "my_corpus" / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def config(self, **settings) -> str:
        return str(self.write_config(**settings).rename(self.folder / "X.json"))

    def pretrain(self, *argv) -> int:
        """Runs run_mlm.py with toy settings and `argv`; prints its output and returns its exit code."""
        files = {"--train_file": None, "--dataset_name": str(self.text), "--output_dir": str(self.name)}
        given = files | dict(zip(argv[::2], argv[1::2], strict=True))
        code, output = self._run(*[part for pair in given.items() for part in pair])
        print(output)
        return code


@symptom("A name of the hub cannot be resolved")
def _(bench):
    bench.pretrain("--tokenizer_name", "roberta-base")


@symptom("Tokenizer and config do not fit")
def _(bench):
    bench.pretrain("--config_name", bench.config(vocab_size=200))


@symptom("The sequence length is beyond the model's positions")
def _(bench):
    bench.pretrain("--config_name", bench.config(), "--max_seq_length", "128")


@symptom("The global batch cannot be divided")
def _(bench):
    bench.pretrain("--global_batch_size", "32", "--per_device_train_batch_size", "24")


@symptom("There is less text than one block")
def _(bench):
    validation, bench.text = bench.text, bench.write("short.txt", "One.\n\nTwo words.\n\nThree more words.")
    bench.pretrain("--validation_file", str(validation))


@symptom("There is no validation text")
def _(bench):
    bench.text = bench.write("book.txt", "\n".join(toy_documents(50)))
    bench.pretrain()


@symptom("The text is in another column")
def _(bench):
    rows = [json.dumps({"id": n, "content": text}) for n, text in enumerate(toy_documents(20))]
    bench.text = bench.write("rows.jsonl", "\n".join(rows))
    bench.pretrain()


@symptom("A file is not UTF-8")
def _(bench):
    bench.text = bench.write("old.txt", "\n\n".join(["Un café à la crème, s'il vous plaît."] * 50).encode("cp1252"))
    bench.pretrain()


@symptom("A row of a CSV file has too many fields")
def _(bench):
    bench.text = bench.write("rows.csv", "id,text\n1,one sentence\n2,another, with a comma\n")
    bench.pretrain()


@symptom("The tokenizer does not know the text")
def _(bench):
    other = train_tokenizer(lambda: ["one two three four five six seven"], kind="wordpiece", vocab_size=60)
    save_tokenizer(other, bench.folder / "my_tokenizer")
    config = bench.config(family="bert", vocab_size=400)
    bench.pretrain("--config_name", config, "--tokenizer_name", str(bench.folder / "my_tokenizer"))


@symptom("Nothing happens: the run is done")
def _(bench):
    bench.pretrain()
    bench.pretrain()


@symptom("A setting differs from that of the run")
def _(bench):
    bench.pretrain()
    bench.pretrain("--learning_rate", "1e-3")


@symptom("Another run uses the folder")
def _(bench):
    bench.name.mkdir(parents=True)
    with FileLock(bench.name / ".lock"):
        bench.pretrain()


@symptom("A checkpoint is damaged")
def _(bench):
    bench.pretrain()
    file = bench.name / "checkpoint-4" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    bench.pretrain()


@symptom("Prepared tokens are damaged")
def _(bench):
    bench.pretrain()
    (file,) = (bench.folder / "data").glob("*/train.npy")
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    bench.pretrain("--output_dir", str(bench.folder / "runs" / "second"))


@symptom("The loss is not finite")
def _(bench):
    bench.pretrain()
    weights = load_file(bench.name / "model.safetensors")
    weights["lm_head.dense.weight"][0, 0] = math.nan
    save_file(weights, bench.name / "model.safetensors", metadata={"format": "pt"})
    start = ("--model_name_or_path", str(bench.name), "--config_name", None, "--tokenizer_name", None)
    assert bench.pretrain(*start, "--vocab_size", None, "--output_dir", str(bench.folder / "runs" / "second")) == 3


@symptom("The run stopped with exit code 75")
def _(bench):
    def stop() -> None:
        with contextlib.suppress(AssertionError):
            until(lambda: (bench.name / "log.jsonl").is_file() and (bench.name / "log.jsonl").stat().st_size)
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal after the end of the run must not end the test
    thread = threading.Thread(target=stop)
    try:
        thread.start()
        assert bench.pretrain("--max_steps", "100000", "--allow_implausible", "epochs", "--save_steps", "100000") == 75
    finally:
        thread.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@symptom("The disk is too small")
def _(bench):
    bench.monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    bench.pretrain()


@symptom("WORLD_SIZE is left over in the environment")
def _(bench):
    bench.monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        bench.monkeypatch.delenv(name, raising=False)
    announced_world()


@symptom("A flag is refused")
def _(bench):
    bench.pretrain("--fp16", "true")


@symptom("GLUE's folder lacks a task")
def _(bench):
    folder = write_glue(bench.folder / "glue")
    (folder / "RTE").rename(folder / "rte_old")
    read_glue(TASKS["rte"], "glue", ("train",))


@symptom("W&B is offline")
def _(bench):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        bench.monkeypatch.setenv(name, "")
        bench.monkeypatch.delenv(name)
    bench.monkeypatch.setenv("HOME", str(bench.folder))
    select_trackers(SimpleNamespace(report_to=["wandb"]), print)


@pytest.mark.parametrize(("heading", "quoted"), QUOTED, ids=[heading for heading, _ in QUOTED])
def test_a_quoted_symptom_is_what_is_printed(heading, quoted, run, tmp_path, write_config, capsys, monkeypatch):
    mistake = ""
    try:
        REPRODUCE[heading](Bench(run, tmp_path, write_config, monkeypatch))
    except UserError as error:  # printed like this by programs, with exit code 2
        mistake = f"error: {error}"
    output = "\n".join([*capsys.readouterr(), mistake]).replace(f"{tmp_path}/", "")
    pattern = re.escape(quoted).replace(re.escape("..."), ".*")
    assert re.search(f"^{pattern}$", output, flags=re.M), f"{quoted}\nis not in\n{output}"


def test_every_section_quotes_a_symptom_that_is_reproduced():
    headings = re.findall(r"^### (.+)$", PAGE, flags=re.M)
    assert len(headings) >= 15 and headings == [heading for heading, _ in QUOTED]
    assert sorted(headings) == sorted(REPRODUCE)
