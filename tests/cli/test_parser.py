"""Command-line arguments: well-known flags, one-line errors for mistakes, batch arithmetic."""

import json

import pytest

from recipe.cli.parser import parse
from recipe.data.arguments import DataArguments
from recipe.model.arguments import ModelArguments
from recipe.objective.arguments import ObjectiveArguments
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments, derive_accumulation, epochs_to_steps

ALL = (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments)
KNOWN_FLAGS = """
    model_name_or_path model_type config_overrides config_name tokenizer_name cache_dir use_fast_tokenizer
    model_revision token trust_remote_code dataset_name dataset_config_name train_file validation_file
    overwrite_cache validation_split_percentage max_seq_length preprocessing_num_workers mlm_probability
    line_by_line pad_to_max_length max_train_samples max_eval_samples streaming output_dir do_train do_eval
    per_device_train_batch_size learning_rate num_train_epochs deepspeed bf16 seed report_to
"""


def test_well_known_flags_exist(tmp_path):
    parsed = parse(ALL, ["--output_dir", str(tmp_path), "--use_cpu", "true"])
    names = {name for group in parsed for name in vars(group)}
    assert set(KNOWN_FLAGS.split()) <= names


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_one_file_can_replace_the_command_line(tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    path.write_text(json.dumps({"output_dir": str(tmp_path), "max_seq_length": 64, "seed": 7, "use_cpu": True}))
    _, data, _, args = parse(ALL, [str(path)])
    assert data.max_seq_length == 64 and args.seed == 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rte", "1"], "unknown flag --learning_rte: did you mean --learning_rate"),
        (["--seed", "many"], "argument --seed.*invalid int"),
        (["--mlm_probability", "1.5"], "found --mlm_probability 1.5, expected more than 0 and less than 1"),
        (["--mask_replace_prob", "0.9", "--random_replace_prob", "0.2"], "at most 1 together"),
        (["--validation_split_percentage", "0"], "validation_split_percentage 0"),
        (["--nonfinite", "maybe"], "expected stop or skip"),
        (
            ["--load_best_model_at_end", "--eval_strategy", "steps"],
            "load_best_model_at_end True: the result of pre-training is the model of its last step",
        ),
        (["--label_smoothing_factor", "0.1"], "plain cross-entropy"),
        (["--save_only_model"], "cannot be resumed from a checkpoint without"),
        (["--metric_for_best_model", "loss"], "not its best"),
        (["--fp16"], "use --bf16"),
        (["--push_to_hub", "--hub_strategy", "checkpoint"], "use every_save or end"),
        (["--global_batch_size", "0"], "global_batch_size 0, expected at least 1"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size 0"),
        (["--global_batch_size", "8", "--gradient_accumulation_steps", "2"], "accumulation is derived"),
        (["--seed", "-1"], "seed -1, expected at least 0"),
        (["--max_eval_samples", "0"], "max_eval_samples 0"),
        (["--tokn=hf_secret"], "unknown flag --tokn: did you mean --token"),
        (["--fsdp", "full_shard"], "found --fsdp"),
        (["--global_batch_size", "30", "--per_device_train_batch_size", "8"], "doesn't divide"),
        (["--warmup_steps", "-1"], "warmup_steps"),
    ],
)
def test_mistakes_get_one_line(tmp_path, argv, message):
    with pytest.raises(UserError, match=message) as error:
        parse(ALL, ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true", *argv])
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not (tmp_path / "run").exists()


def test_invalid_or_missing_argument_files(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(UserError, match="No such file"):
        parse(ALL, [str(path)])
    path.write_text('{"output_dir": "x", "sed": 5}')
    with pytest.raises(UserError, match="sed"):
        parse(ALL, [str(path)])
    for content in ("{", "[1, 2]"):
        path.write_text(content)
        with pytest.raises(UserError):
            parse(ALL, [str(path)])
    path = tmp_path / "run.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError):
        parse(ALL, [str(path)])


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "accumulation"), [(32, 32, 1, 1), (32, 8, 1, 4), (32, 8, 2, 2), (8192, 64, 16, 8)]
)
def test_accumulation_is_derived(batch, micro, devices, accumulation):
    assert derive_accumulation(batch, micro, devices) == accumulation


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "message"),
    [
        (30, 8, 1, "micro-batch of 8: micro-batch sizes that fit: 3, 5, 6, 10"),
        (32, 12, 2, "on 2 devices doesn't divide by a micro-batch of 12: micro-batch sizes that fit: 2, 4, 8, 16"),
        (32, 8, 3, "doesn't divide by 3 devices: use 1, 2, 4, 8 devices, or a global batch of 30 or 33"),
        (4, 8, 1, "micro-batch sizes that fit: 1, 2, 4"),
    ],
)
def test_an_indivisible_batch_is_answered_with_sizes_that_work(batch, micro, devices, message):
    with pytest.raises(UserError, match=message):
        derive_accumulation(batch, micro, devices)


def test_epochs_become_steps(tmp_path):
    args = PretrainArguments(
        output_dir=str(tmp_path), num_train_epochs=2.5, per_device_train_batch_size=8, use_cpu=True
    )
    assert epochs_to_steps(args, blocks=100) == 32  # 250 sequences in batches of 8
    args.max_steps = 7
    assert epochs_to_steps(args, blocks=100) == 7
