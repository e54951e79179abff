"""Flags of older versions and other programs: accepted if they mean the same, otherwise the error names the new flag."""

import json

import pytest

from recipe.cli.old_flags import DROPPED, OLD_FLAGS, RENAMED, translate
from recipe.cli.parser import Parser, parse
from recipe.data.arguments import DataArguments
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.model.arguments import ModelArguments
from recipe.objective.arguments import ObjectiveArguments
from recipe.sweep.plan import parse_sweep
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from run_clm import CausalArguments

MLM = (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments)
CLM = (ModelArguments, DataArguments, CausalArguments, PretrainArguments)
GLUE = (GlueArguments, FineTuneArguments)


def settings(dataclasses, argv, tmp_path) -> dict:
    parsed = parse(dataclasses, ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", *argv])
    return {name: value for group in parsed for name, value in vars(group).items()}


@pytest.mark.parametrize("written", ["apart", "with =", "dashes", "json", "yaml"])
def test_an_old_name_of_the_same_flag_is_accepted_with_a_warning(tmp_path, capsys, monkeypatch, written):
    monkeypatch.setattr("recipe.cli.parser._warn_once", print)
    old = {"evaluation_strategy": "epoch", "warmup_ratio": 0.1, "overwrite_output_dir": True, "torch_dtype": "float32"}
    old |= {"per_gpu_train_batch_size": 3, "use_auth_token": "hf_planted", "half_precision_backend": "auto"}
    if written in ("json", "yaml"):
        file = tmp_path / f"run.{written}"
        file.write_text(json.dumps(old | {"output_dir": str(tmp_path / "run"), "use_cpu": True}))
        parsed = {name: value for group in parse(MLM, [str(file)]) for name, value in vars(group).items()}
    else:
        argv = [word for name, value in old.items() for word in (f"--{name}", str(value))]
        if written == "with =":
            argv = [f"--{name}={value}" for name, value in old.items()]
        elif written == "dashes":
            argv = [word.replace("_", "-") if word.startswith("--") else word for word in argv]
        parsed = settings(MLM, argv, tmp_path)
    assert parsed["eval_strategy"] == "epoch" and parsed["token"] == "hf_planted"
    assert parsed["warmup_steps"] == 0.1 and parsed["per_device_train_batch_size"] == 3
    output = capsys.readouterr().out
    assert "hf_planted" not in output
    for name, what in (
        ("evaluation_strategy", "is an old name of --eval_strategy"),
        ("warmup_ratio", "is an old name of --warmup_steps"),
        ("overwrite_output_dir", "has no effect: a run continues"),
        ("torch_dtype", "has no effect: weights are kept in fp32"),
        ("half_precision_backend", "has no effect"),
    ):
        assert f"--{name} {what}" in output


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--context_length", "512"], "for --context_length write --max_seq_length 512$"),
        (["--num_training_steps=300000"], "write --max_steps 300000$"),
        (["--evaluation_interval", "50"], "write --eval_strategy steps --eval_steps 50$"),
        (["--checkpoint_interval", "50"], "write --save_steps 50$"),
        (["--working_directory", "runs/a"], "write --output_dir runs/a$"),
        (
            ["--hf_model_name", "roberta-base"],
            "write --model_name_or_path roberta-base to continue .*--config_name robe",
        ),
        (["--logging_dir", "logs"], "write TENSORBOARD_LOGGING_DIR=logs before the command$"),
        (["--torch_dtype", "bfloat16"], "write --bf16 for mixed precision$"),
        (
            ["--warmup_ratio", "0.1", "--warmup_steps", "10"],
            "both --warmup_ratio and --warmup_steps, its new name: leave out --warmup_ratio",
        ),
        (
            ["--epochs", "3", "--lr", "1e-3"],
            "for --epochs write --num_train_epochs 3; for --lr write --learning_rate 1e-3",
        ),
        # Flags that aren't in the table get no suggestion that only sounds alike.
        (["--evaluation_period", "50"], "unknown flag --evaluation_period: see --help$"),
        (["--num_checkpoints", "50"], "unknown flag --num_checkpoints: see --help$"),
        (["--warmup_stepps", "50"], "unknown flag --warmup_stepps: did you mean --warmup_steps"),
        (["--overwrite_output_dir", "maybe"], "unknown flag --overwrite_output_dir: see --help$"),
    ],
)
def test_a_flag_with_another_meaning_gets_its_replacement(tmp_path, argv, message):
    with pytest.raises(UserError, match=message) as error:
        settings(MLM, argv, tmp_path)
    assert "\n" not in str(error.value)


def test_a_flag_that_the_script_has_is_not_translated(tmp_path):
    assert settings(CLM, ["--block_size", "64"], tmp_path)["block_size"] == 64
    with pytest.raises(UserError, match="for --block_size write --max_seq_length 64"):
        settings(MLM, ["--block_size", "64"], tmp_path)
    task = ["--model_name_or_path", "x", "--task_name", "rte"]
    assert settings(GLUE, [*task, "--data_dir", "glue"], tmp_path)["glue_data"] == "glue"
    with pytest.raises(UserError, match="unknown flag --data_dir"):
        settings(MLM, ["--data_dir", "glue"], tmp_path)


def test_a_sweep_passes_current_names_on():
    _, rest = parse_sweep(["--runs", "x", "--tasks", "rte", "--warmup_ratio", "0.1", "--overwrite_output_dir"])
    assert rest == ["--warmup_steps", "0.1"]


def test_every_entry_names_flags_of_a_script():
    known = Parser(MLM).flags | Parser(CLM).flags | Parser(GLUE).flags
    for name, answers in OLD_FLAGS.items():
        for answer in answers:
            flags = [f"--{answer.text}"] if answer.kind == RENAMED else []
            flags += [word.strip(",;") for word in answer.text.split() if word.startswith("--")]
            assert answer.kind == DROPPED or set(flags) <= known, name
        assert f"--{name}" not in known or name == "block_size"


@pytest.mark.parametrize("value", [[], ["true"], ["False"]])
def test_a_flag_after_a_dropped_switch_is_kept(value):
    known = {"--seed", "--per_device_train_batch_size"}
    words, warnings = translate(["--overwrite_output_dir", *value, "--seed", "1"], known)
    assert words == ["--seed", "1"] and len(warnings) == 1


def test_a_run_with_old_flags_is_the_same_run(run, tmp_path):
    settings = ("--max_steps", "2", "--save_steps", "2")
    run(*settings, "--warmup_steps", "0.5")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    run(*settings, "--output_dir", str(tmp_path / "old"), "--warmup_ratio", "0.5", "--overwrite_output_dir", "true")
    assert json.loads((tmp_path / "old" / "run.json").read_text())["meaning"] == record["meaning"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "old")]
    assert weights[0] == weights[1]
