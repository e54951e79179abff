"""Validation of the JSON of --deepspeed against the flags."""

import json

import pytest
from toy import REPOSITORY

from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.deepspeed_config import check_deepspeed

FILES = sorted((REPOSITORY / "ds_config").glob("*.json"))


def checked(tmp_path, config, **settings):
    """check_deepspeed for 4 sequences x 2 accumulations on 2 devices; `config` is the text or the content of a file."""
    flags = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "do_train": True} | settings
    args = PretrainArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **flags)
    file = tmp_path / "ds.json"
    if isinstance(config, str):
        file.write_text(config)
    else:
        file.write_text(json.dumps(config))
    args.deepspeed = str(file)
    check_deepspeed(args, devices=2)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_files_of_ds_config_need_bf16_and_contradict_no_other_flag(tmp_path, file):
    checked(tmp_path, file.read_text(), bf16=True)
    with pytest.raises(UserError, match=r"ds.json has bf16 on and the flags don't: pass --bf16, or switch it off in"):
        checked(tmp_path, file.read_text())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "ds.json holds a list, expected an object like ds_config/zero2_bf16.json"),
        ("null", "holds a NoneType"),
        ("{", "ds.json is not JSON: .*: fix it, or start from a file of ds_config/"),
        ("[" * 100_000, "ds.json is not JSON"),
        ({"zero_optimization": 2}, "ds.json has zero_optimization 2, expected an object"),
        ({"zero_optimization": {"stage": 7}}, "ds.json has the ZeRO stage 7, expected one of 0, 1, 2, 3"),
        ({"zero_optimization": {"stage": "two"}}, 'ZeRO stage "two"'),
        ({"fp16": {"enabled": True}}, "has fp16 on and the flags don't: use ds_config/zero2_bf16.json and --bf16"),
        (
            {"train_batch_size": 64, "gradient_clipping": 0.5, "train_micro_batch_size_per_gpu": 4},
            "contradicts the flags: gradient_clipping is 0.5 in the file, 1.0 in the flags; train_batch_size is 64 in "
            'the file, 16 in the flags: write "auto" in the file$',
        ),
        ({"optimizer": {"params": {"lr": 1e-3, "betas": [0.9, 0.95]}}}, r"optimizer.params.betas is \[0.9, 0.95\] in"),
        ({"scheduler": {"params": {"total_num_steps": 5}}}, "total_num_steps is 5 in the file, 9 in the flags"),
    ],
)
def test_contradictions_with_the_flags_are_a_one_line_error(tmp_path, config, message):
    with pytest.raises(UserError, match=message) as error:
        checked(tmp_path, config, max_steps=9)
    assert "\n" not in str(error.value)


def test_bf16_switched_off_in_the_file_contradicts_the_flag(tmp_path):
    with pytest.raises(UserError, match=r'found --bf16, and .*ds.json has bf16 off: leave one out, or write "auto"'):
        checked(tmp_path, {"bf16": {"enabled": False}}, bf16=True)
    checked(tmp_path, {"bf16": {"enabled": "auto"}}, bf16=True)
    checked(tmp_path, {}, bf16=True)  # accelerate switches it on


def test_matching_values_and_auto_are_accepted(tmp_path):
    checked(
        tmp_path,
        {
            "train_batch_size": 16,
            "gradient_clipping": 1,
            "optimizer": {"params": {"lr": "auto", "betas": "auto", "eps": 1e-8}},
            "zero_optimization": {"stage": 3},
        },
    )


def test_the_flag_is_checked_before_anything_else(run, tmp_path):
    with pytest.raises(UserError, match=r"zero2_bf16.json has bf16 on and the flags don't"):
        run("--deepspeed", str(REPOSITORY / "ds_config" / "zero2_bf16.json"))
    with pytest.raises(UserError, match=r"cannot read the DeepSpeed configuration none.json: No such file"):
        run("--deepspeed", "none.json")
    with pytest.raises(UserError, match="holds a list"):
        run("--deepspeed", "[]")
    assert not (tmp_path / "run").exists() and not (tmp_path / "data").exists()
