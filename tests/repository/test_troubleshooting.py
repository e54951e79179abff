"""docs/troubleshooting.md: each symptom that it quotes is brought about, and what is printed is compared with the page."""

import json
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from glue_toys import write_glue
from toy import REPOSITORY, toy_documents

from recipe.finetune.glue.rows import read_glue
from recipe.finetune.glue.tasks import TASKS
from recipe.launch.world import announced_world
from recipe.system.errors import UserError
from recipe.train.trackers import select_trackers

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^### (.+?)\n\n```text\n(.+?)\n```", PAGE, flags=re.M | re.S)
BROUGHT_ABOUT: dict[str, Callable] = {}


def symptom(heading: str):
    """Registers what brings about the symptom under `heading`; it gets a `Bench`."""

    def register(bring_about: Callable) -> Callable:
        BROUGHT_ABOUT[heading] = bring_about
        return bring_about

    return register


class Bench:
    """Toy runs in runs/NAME of a folder of their own, on the text my_corpus/text.txt."""

    def __init__(self, run, folder, write_config, capsys, monkeypatch):
        self._run, self.folder, self.write_config, self.capsys, self.monkeypatch = run, folder, write_config, capsys, monkeypatch
        self.corpus = folder / "my_corpus"
        self.corpus.mkdir()
        self.text = self.write("text.txt", "\n\n".join(toy_documents(200)))

    def write(self, name: str, content: str | bytes):
        file = self.corpus / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def pretrain(self, *argv) -> int:
        """Runs run_mlm.py with more flags than the toy settings, and returns its exit code."""
        files = {"--train_file": None, "--dataset_name": str(self.text), "--output_dir": str(self.folder / "runs" / "NAME")}
        code, said = self._run(*[part for pair in (files | dict(zip(argv[::2], argv[1::2], strict=True))).items() for part in pair])
        print(said)
        return code


@symptom("A name of the hub cannot be resolved")
def _(bench):
    bench.pretrain("--tokenizer_name", "roberta-base")


@symptom("Tokenizer and config do not fit")
def _(bench):
    config = bench.write_config(vocab_size=200).rename(bench.folder / "X.json")
    bench.pretrain("--config_name", str(config))


@symptom("The sequence length is beyond the model's positions")
def _(bench):
    config = bench.write_config(vocab_size=400).rename(bench.folder / "X.json")
    bench.pretrain("--config_name", str(config), "--max_seq_length", "128")


@symptom("The global batch cannot be divided")
def _(bench):
    bench.pretrain("--global_batch_size", "32", "--per_device_train_batch_size", "24")


@symptom("There is less text than one block")
def _(bench):
    bench.text = bench.write("short.txt", "One.\n\nTwo words.\n\nThree more words.")
    bench.pretrain("--validation_file", str(bench.folder / "my_corpus" / "text.txt"))


@symptom("There is no validation text")
def _(bench):
    bench.text = bench.write("book.txt", "\n".join(toy_documents(50)))
    bench.pretrain()


@symptom("The text is in another column")
def _(bench):
    bench.text = bench.write("rows.jsonl", "".join(json.dumps({"id": n, "content": text}) + "\n" for n, text in enumerate(toy_documents(20))))
    bench.pretrain()


@symptom("A file is not UTF-8")
def _(bench):
    bench.text = bench.write("old.txt", "\n\n".join(f"Un café à la crème, s'il vous plaît, numéro {n}." for n in range(50)).encode("cp1252"))
    bench.pretrain()


@symptom("A row of a CSV file has too many fields")
def _(bench):
    bench.text = bench.write("rows.csv", "id,text\n1,one sentence\n2,another, with a comma\n")
    bench.pretrain()


@symptom("The tokenizer does not know the text")
def _(bench):
    bench.pretrain("--tokenizer_name", str(bench.write_config("bert", vocab_size=400)))


@symptom("Nothing happens: the run is done")
def _(bench):
    bench.pretrain()
    bench.capsys.readouterr()
    bench.pretrain()


@symptom("A setting differs from the run's")
def _(bench):
    bench.pretrain()
    bench.pretrain("--learning_rate", "1e-3")


@symptom("Another program works in the folder")
def _(bench):
    folder = bench.folder / "runs" / "NAME"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        bench.pretrain()


@symptom("A checkpoint is damaged")
def _(bench):
    bench.pretrain("--max_steps", "4")
    file = bench.folder / "runs" / "NAME" / "checkpoint-4" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    bench.capsys.readouterr()
    bench.pretrain("--max_steps", "4")


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
    bench.pretrain("--learning_rate", "1e30", "--warmup_steps", "0")


@symptom("The disk is too small")
def _(bench):
    bench.monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
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


@pytest.mark.parametrize("heading", BROUGHT_ABOUT)
def test_a_quoted_symptom_is_what_is_printed(heading, run, tmp_path, write_config, capsys, monkeypatch):
    bench = Bench(run, tmp_path, write_config, capsys, monkeypatch)
    error = ""
    try:
        BROUGHT_ABOUT[heading](bench)
    except UserError as mistake:
        error = f"error: {mistake}"
    said = "\n".join([*capsys.readouterr(), error]).replace(f"{tmp_path}/", "")
    with open("/tmp/docs_symptoms.txt", "a") as f: print("###", heading, "\n", said, file=f)
