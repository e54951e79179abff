"""Invalid paths get one-line errors; URLs, JSON objects and sentences are not taken for paths."""

import pytest

import train_tokenizer
from recipe.cli.parser import parse
from recipe.data.arguments import DataArguments
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.model.arguments import ModelArguments
from recipe.programs import fill
from recipe.system.errors import UserError
from recipe.system.hub import is_local
from recipe.system.paths import path_exists, require_paths
from recipe.train.arguments import PretrainArguments

PRETRAINING = (ModelArguments, DataArguments, PretrainArguments)


@pytest.mark.parametrize("name", ["a" * 5000, "~nobodyatall/x", "a\0b"])
def test_an_invalid_path_does_not_exist(name):
    assert not path_exists(name) and not is_local(name.replace("~", "+"))


@pytest.mark.parametrize(
    "flag", ["output_dir", "prepared_dir", "train_file", "tokenizer_name", "config_name", "dataset_name"]
)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a" * 5000, r"aaa\.\.\., a name of 5000 bytes: expected at most 255"),
        ("ä" * 200, "a name of 400 bytes"),
        ("~nobodyatall/x", "there is no user nobodyatall"),
    ],
)
def test_an_invalid_path_gets_one_line(tmp_path, flag, value, message):
    with pytest.raises(UserError, match=f"found --{flag} .*{message}"):
        parse(PRETRAINING, ["--output_dir", str(tmp_path / "run"), "--use_cpu", f"--{flag}", value])


def test_urls_and_json_objects_are_not_paths():
    require_paths({"dataset_name": f"https://host/x.txt?signature={'a' * 500}", "deepspeed": "{" + "1" * 500 + "}"})


@pytest.mark.parametrize("where", ["run", "run/inside"])
def test_an_output_folder_that_is_a_file_gets_one_line(tmp_path, where):
    (tmp_path / "run").write_text("a file")
    task = ["--model_name_or_path", "m", "--task_name", "rte", "--use_cpu"]
    with pytest.raises(UserError, match=r"cannot write to .*run.* is not a writable folder"):
        parse((GlueArguments, FineTuneArguments), ["--output_dir", str(tmp_path / where), *task])


@pytest.mark.parametrize("program", [PRETRAINING, (GlueArguments, FineTuneArguments)])
def test_an_empty_output_folder_is_refused(program):
    with pytest.raises(UserError, match="found no --output_dir"):
        parse(program, ["--output_dir", "", "--model_name_or_path", "m", *["--task_name", "rte"] * (len(program) == 2)])
    with pytest.raises(UserError, match="found no --output_dir"):
        train_tokenizer.TokenizerArguments(output_dir="")


def test_a_text_too_long_for_a_path_is_a_text(capsys):
    assert fill.is_text("a" * 10_000 + " ___")
    assert fill.is_text("~nobodyatall ___") and not fill.is_text("a" * 10_000)
    assert fill.readable("cut \ud83d ___") == "cut \ufffd ___"
    assert "1 bytes of 'cut \ufffd ___' are not UTF-8: replaced" in capsys.readouterr().err
    assert fill.readable("naïve ___") == "naïve ___" and not capsys.readouterr().err
