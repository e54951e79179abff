"""The commands of README, docs and usage blocks, typed as they stand there; small by environment variables alone.

Each command is in one group: run for real; run dry, because it needs the hub, GPUs or hours (a program without DRY_RUN
has its flags read by its own parser); or not run, because it needs what the group names.
"""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from documented import Documented, copy_repository, documented_commands, typed
from toy import SHARED_DATA, toy_documents

from recipe.cli.parser import parse
from recipe.data.arguments import DataArguments
from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.model.arguments import ModelArguments
from recipe.objective.arguments import ObjectiveArguments
from recipe.sweep.plan import parse_sweep, shared_settings
from recipe.train.arguments import PretrainArguments
from run_clm import CausalArguments

REAL = (  # test_pretrain_and_glue_as_the_readme_says
    r"bash pretrain\.sh",
    r"RUN=runs/NAME GLUE_DATA=glue/ bash finetune_glue\.sh",
)
REAL_SLOW = (
    r"python -m recipe\.train\.auto .*",
    r"python fill_mask\.py runs/(?!.*roberta-base).*",
    r"python -m recipe\.report(\.scores|\.publish)? .*",
    r"python -m recipe\.(model\.scale|system\.secrets) .*",
    r"python train_tokenizer\.py (?!.*-base|--help).*",
    r"python prepare_data\.py --dataset_name docstrings .*",
    r"python \w+\.py --help",
    r"python -m recipe\.finetune\.qa\.scoring dev-v1\.1\.json .*",
)
# Flags of programs that a shell script or the reader starts: (program, what reads its flags).
PARSERS = {
    "run_mlm.py": (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments),
    "run_clm.py": (ModelArguments, DataArguments, CausalArguments, PretrainArguments),
    "run_glue.py": (GlueArguments, FineTuneArguments),
    "run_qa.py": (QaArguments, QaTrainingArguments),
    "run_blimp.py": (BlimpArguments, BlimpRun),
    "run_ner.py": (NerArguments, NerTrainingArguments),
}
DRY = (
    r"(?!RUN=runs/NAME GLUE_DATA=glue/ bash)\S.* bash (pretrain|finetune_glue|finetune_qa)\.sh( --.*)?",
    r"(.* )?bash launch/(slurm|ray)\.sh (pretrain|finetune_glue)\.sh",
    r"bash pretrain\.sh --.*",
    r"python run_(mlm|clm|glue|qa|blimp|ner)\.py (?!--help).*",
    r"python -m recipe\.sweep (?!.* boolq).*",
)
EXTENDING = (r"python -m recipe\.sweep .* boolq.*",)  # tests/repository/test_extending.py runs it
COMPARING = (r"python -m recipe\.compare .*",)  # tests/compare/test_compare.py runs it on scores
AVERAGING = (r"python -m recipe\.average .*",)  # tests/average/test_averaging.py runs it on checkpoints
TUTORIAL = (  # tests/repository/test_tutorial.py runs all of docs/tutorial.md, in its order
    r"mkdir -p my_corpus",
    r"python -c .*",
    r"unset .*",
)
NEEDS = {
    "SkyPilot and a cloud": (r"sky .*", r"pip install 'skypilot.*"),
    "a Ray cluster": (r"ray .*",),
    "the package index": (r"pip install (s3fs|gcsfs|tensorboard trackio mlflow|'ray.*)",),
    "a bucket": (r"python prepare_data\.py .*s3://.*",),
    "the hub": (r"python train_tokenizer\.py .*-base.*", r"python fill_mask\.py .*roberta-base", r"python prepare_data\.py --dataset_name my_corpus/ .*roberta-base"),
    "SQuAD 2.0's answers": (r"python -m recipe\.finetune\.qa\.scoring dev-v2\.0\.json .*",),
    "GPUs": (r"python -m recipe\.train\.micro_batch .*",),
    "two or more GPUs": (r"python -m recipe\.launch( .*)?",),
    "a machine to itself: these measure it": (r"(.* )?bash benchmarks/.*", r"python benchmarks/.*"),
    "the suite itself": (r"bash test\.sh.*", r"bash tests/(chaos|oldest)/run\.sh", r"python tests/(mutations|helpers/support_page)\.py( --print)?"),
}  # fmt: skip
COMMANDS = documented_commands()
SMALL = {
    "DATASET": "my.txt", "RECIPE": "demo", "RUN_NAME": "NAME", "VOCAB_SIZE": "300", "SEQ_LENGTH": "32", "MAX_STEPS": "4",
    "GLOBAL_BATCH_SIZE": "8", "MICRO_BATCH_SIZE": "4", "WARMUP_STEPS": "1", "LOGGING_STEPS": "1", "EVAL_BLOCKS": "16",
}  # fmt: skip


def groups_of(command: str) -> list[str]:
    """The groups that a command is in."""
    patterns = {
        "real": REAL,
        "real, slow": REAL_SLOW,
        "dry": DRY,
        "extending": EXTENDING,
        "comparing": COMPARING,
        "averaging": AVERAGING,
        "tutorial": TUTORIAL,
    } | NEEDS
    return [group for group, many in patterns.items() if any(re.fullmatch(pattern, command) for pattern in many)]


def of_group(group: str, without: str = "") -> list:
    """The commands of a group, each once, but for those of the file `without`."""
    asked = [found for found in COMMANDS if groups_of(found.command) == [group] and found.file != without]
    chosen = {(found.command, found.exports): found for found in asked}
    return [pytest.param(found, id=f"{found.file}: {found.command}") for found in chosen.values()]


def test_every_documented_command_is_in_one_group():
    assert len(COMMANDS) > 100
    lost = {f"{found.file}: {found.command}": groups_of(found.command) for found in COMMANDS}
    assert {command: groups for command, groups in lost.items() if len(groups) != 1} == {}
    every = [
        pattern
        for many in (REAL, REAL_SLOW, DRY, EXTENDING, COMPARING, AVERAGING, TUTORIAL, *NEEDS.values())
        for pattern in many
    ]
    unused = [p for p in every if not any(re.fullmatch(p, found.command) for found in COMMANDS)]
    assert unused == []


def test_new_documentation_cannot_escape():
    assert groups_of("bash pretrain_faster.sh") == [] and groups_of("python run_gpt.py --do_train") == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository, and what the placeholders of the commands stand for."""
    folder = copy_repository(tmp_path_factory.mktemp("checkout"))
    files = [folder / "my.txt", *(folder / name / "text.txt" for name in ("my_corpus", "wiki", "books", "my_text"))]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n\n".join(toy_documents(220)))
    (folder / "runs" / "general").mkdir(parents=True)  # a model to train further
    shutil.copy(folder / "configs" / "modernbert_tiny.json", folder / "runs" / "general" / "config.json")
    written = re.search(r"```yaml\n(# boolq.yaml.*?)```", (folder / "docs" / "finetuning.md").read_text(), re.DOTALL)
    assert written, "docs/finetuning.md has a task file"
    (folder / "boolq.yaml").write_text(written[1])
    rows = [{"question": "is it", "passage": text, "answer": len(text) % 2 == 0} for text in toy_documents(8)]
    for name in ("train.jsonl", "val.jsonl"):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.mark.parametrize("found", of_group("dry"))
def test_a_command_that_needs_more_than_a_test_has_runs_dry(checkout, found, monkeypatch):
    if found.command.startswith("python "):
        words = shlex.split(found.command)[1:]
    else:
        found = replace(
            found, command=found.command.replace("DRY_RUN=1 bash pretrain", "DRY_RUN=command bash pretrain")
        )
        done = typed(checkout, found, DRY_RUN="command")
        others = [line for line in done.stderr.splitlines() if not line.startswith("auto ")]
        assert done.returncode == 0 and not others, done.stderr
        words = shlex.split(done.stdout)
    monkeypatch.chdir(checkout)
    if "recipe.sweep" in words:
        sweep, rest = parse_sweep(words[words.index("recipe.sweep") + 1 :])
        assert shared_settings(sweep, rest)
        return
    program = next((word for word in words if word in PARSERS), None)
    if program is None:  # sbatch's or Ray's, which start one of the scripts elsewhere
        assert any(word.endswith(("pretrain.sh", "finetune_glue.sh")) for word in words)
        return
    flags = [word for word in words[words.index(program) + 1 :] if word != "..."]
    if "--model_name_or_path" not in flags and program == "run_qa.py":
        flags += ["--model_name_or_path", "x", "--output_dir", "x"]  # the line above it in the docstring has these
    if torch.accelerator.is_available() or "--deepspeed" not in flags:
        parse(PARSERS[program], flags)


def losses(folder: Path) -> list[float]:
    logs = map(json.loads, (folder / "log.jsonl").open())
    return [log[name] for log in logs for name in ("loss", "grad_norm", "eval_loss") if name in log]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="two CPU processes are asked for")
def test_pretrain_and_glue_as_the_readme_says(checkout):
    pretrain, glue = (next(found for found in COMMANDS if re.fullmatch(pattern, found.command)) for pattern in REAL)
    done = typed(checkout, pretrain, **SMALL)
    assert done.returncode == 0, done.stderr
    two = typed(checkout, pretrain, **SMALL | {"RUN_NAME": "two", "NPROC_PER_NODE": "2"})
    assert two.returncode == 0, two.stderr
    assert "batch      4 sequences x 2 accumulations x 1 process = 8 sequences" in done.stdout
    assert "batch      4 sequences x 1 accumulation x 2 processes = 8 sequences" in two.stdout
    runs = checkout / "runs"
    assert len(losses(runs / "NAME")) >= 9 and losses(runs / "two") == pytest.approx(losses(runs / "NAME"), abs=1e-5)
    again = typed(checkout, pretrain, **SMALL)
    assert again.returncode == 0 and "is done: 4 steps" in again.stdout
    refused = typed(checkout, pretrain, **SMALL | {"RUN_NAME": "stray", "WORLD_SIZE": "2"})
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and not (runs / "stray").exists()
    assert "found WORLD_SIZE=2 in the environment, but no RANK" in refused.stderr
    if not (checkout / "glue").exists():
        pytest.skip("there are no GLUE files in ../shared/data")
    scored = typed(checkout, glue, TASKS="rte", EPOCHS="0.02")
    assert scored.returncode == 0, scored.stderr
    assert "rte" in (runs / "NAME" / "glue" / "glue.csv").read_text()


@pytest.fixture(scope="module")
def finished(checkout) -> Path:
    """The checkout after a small pre-training, under every name that the documents give to a run and its checkpoints."""
    pretrain = next(found for found in COMMANDS if found.command == "bash pretrain.sh")
    small = SMALL | {"RUN_NAME": "toy", "DATASET": "my_corpus", "EVAL_STEPS": "2"}
    assert typed(checkout, pretrain, **small).returncode == 0
    runs = checkout / "runs"
    for name in ("NAME", "first", "my_run", "other", "wiki_books"):
        shutil.copytree(runs / "toy", runs / name, dirs_exist_ok=True)
        for step in (500, 900, 8000):
            shutil.copytree(runs / "toy" / "checkpoint-4", runs / name / f"checkpoint-{step}")
    shutil.copy(checkout / "configs" / "roberta_tiny.json", checkout / "configs" / "X.json")
    shutil.copytree(runs / "toy" / "checkpoint-4", checkout / "other")  # a tokenizer to compare with
    squad = SHARED_DATA / "squad"
    if squad.is_dir():
        shutil.copy(squad / "dev-v1.1.json", checkout)
        for file in (checkout / "eval_predictions.json", checkout / "out" / "eval_predictions.json"):
            file.parent.mkdir(exist_ok=True)
            file.write_text("{}")
    glue = Documented("", "RUN=runs/toy/checkpoint-4 OUTPUT_DIR=runs/toy/glue bash finetune_glue.sh")
    if (checkout / "glue").exists():
        small = {"TASKS": "rte", "EPOCHS": "0.02", "GLUE_DATA": "glue/", "REPORT_TO": "none"}
        assert typed(checkout, glue, **small).returncode == 0
        for name in ("NAME", "first", "wiki_books"):
            shutil.copytree(runs / "toy" / "glue", runs / name / "glue", dirs_exist_ok=True)
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize("found", of_group("real, slow", without="docs/tutorial.md"))
def test_a_command_does_what_it_says(finished, found):
    done = typed(finished, found)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout
