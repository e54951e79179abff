"""Each field of transformers' TrainingArguments is honoured, warned about or refused; missing packages are reported."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from recipe.cli.parser import parse
from recipe.data.arguments import DataArguments
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.model.arguments import ModelArguments
from recipe.objective.arguments import ObjectiveArguments
from recipe.system.errors import UserError
from recipe.train import settings
from recipe.train.arguments import PretrainArguments
from recipe.train.trackers import PACKAGES

MLM = (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments)
GLUE = (GlueArguments, FineTuneArguments)
NEEDED = {MLM: (), GLUE: ("--model_name_or_path", "m", "--task_name", "rte")}
# A value other than the default for each field that is refused or without effect and isn't boolean.
OTHER = {
    "eval_accumulation_steps": "4",
    "include_for_metrics": "inputs",
    "label_names": "label",
    "length_column_name": "size",
    "train_sampling_strategy": "sequential",
    "accelerator_config": '{"even_batches": false}',
    "dataloader_multiprocessing_context": "spawn",
    "fsdp": "full_shard",
    "fsdp_config": '{"min_num_params": 1}',
    "metric_for_best_model": "loss",
    "label_smoothing_factor": "0.1",
    "debug": "underflow_overflow",
}
NOT_ON_A_COMMAND_LINE = {"parallelism_config", "liger_kernel_config"}  # objects of Python


def parsed(dataclasses, *argv):
    return parse(dataclasses, ["--output_dir", "run", "--use_cpu", "true", *NEEDED[dataclasses], *argv])[-1]


def tables(kind: str) -> list[set[str]]:
    pretraining = kind == "pretraining"
    honoured = settings.HONOURED + ("" if pretraining else settings.HONOURED_IN_FINE_TUNING)
    more = (
        (settings.WITHOUT_EFFECT_IN_PRETRAINING, settings.REFUSED_IN_PRETRAINING)
        if pretraining
        else (settings.WITHOUT_EFFECT_IN_FINE_TUNING, settings.REFUSED_IN_FINE_TUNING)
    )
    return [set(honoured.split()), {*settings.WITHOUT_EFFECT, *more[0]}, {*settings.REFUSED, *more[1]}]


@pytest.mark.parametrize("kind", ["pretraining", "fine-tuning"])
def test_every_field_of_the_installed_transformers_is_classified_once(kind):
    known = {field.name for field in fields(TrainingArguments)}
    classified = tables(kind)
    assert set.union(*classified) == known  # a new field: honour it, warn that it has no effect, or refuse it
    assert sum(map(len, classified)) == len(known)


@pytest.mark.parametrize(("dataclasses", "kind"), [(MLM, "pretraining"), (GLUE, "fine-tuning")])
def test_each_unsupported_field_is_warned_about_or_refused(dataclasses, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, unused, refused = tables(kind)
    defaults = {field.name: field.default for group in dataclasses for field in fields(group)}
    for name in sorted((unused | refused) - NOT_ON_A_COMMAND_LINE):
        value = OTHER.get(name, str(not defaults[name]))
        if name in refused:
            with pytest.raises(UserError, match=rf"found --{name} .*: .*; leave it out$"):
                parsed(dataclasses, f"--{name}", value)
        else:
            (warning,) = parsed(dataclasses, f"--{name}", value).unused
            assert warning.startswith(f"--{name} has no effect: "), name
    assert parsed(dataclasses).unused == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataclasses", [MLM, GLUE])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--save_strategy", "best"], "found --save_strategy best: .*; use steps, epoch or no$"),
        (["--optim", "adamw_bnb_8bit"], "found --optim adamw_bnb_8bit, .*not installed: pip install bitsandbytes, or"),
        (["--optim", "galore_adamw"], "pip install galore-torch, or use adamw_torch_fused$"),
        (["--optim", "stable_adamw"], "pip install torch-optimi,"),
        (["--use_liger_kernel"], "found --use_liger_kernel True: it has no kernels for these models; leave it out$"),
        (["--torch_compile_backend", "nope"], "found --torch_compile_backend nope, expected one of .*inductor"),
        (["--torch_compile_mode", "nope"], "found --torch_compile_mode nope, expected default or reduce-overhead"),
        (["--debug", "nope"], "--debug.*nope"),
        (["--lr_scheduler_kwargs", "[]"], r"found --lr_scheduler_kwargs \[\], expected a JSON object"),
        (
            ["--activation_checkpointing_kwargs", "{"],
            "found --activation_checkpointing_kwargs {, expected a JSON object",
        ),
        (["--ddp_backend", "nope"], "--ddp_backend.*invalid choice: .nope. .choose from"),
    ],
)
def test_invalid_settings_are_one_line_errors(dataclasses, argv, message):
    with pytest.raises(UserError, match=message) as error:
        parsed(dataclasses, *argv)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--eval_steps", "2"], "--eval_steps has no effect without --eval_strategy steps"),
        (["--eval_steps", "2", "--eval_strategy", "steps"], None),
        (
            ["--save_steps", "7", "--save_strategy", "epoch"],
            "--save_steps has no effect without --save_strategy steps",
        ),
        (["--optim_args", "a=1"], "--optim_args has no effect: adamw_torch_fused takes none"),
        (["--optim_args", "momentum=0.9", "--optim", "sgd"], None),
        (
            ["--optim_target_modules", "all-linear"],
            "--optim_target_modules has no effect: only GaLore and APOLLO use it",
        ),
    ],
)
def test_a_setting_without_effect_is_warned_about(argv, expected):
    warnings = parsed(MLM, *argv).unused
    assert warnings == [] if expected is None else warnings[0].startswith(expected)


def test_every_optimizer_and_tracker_has_a_package_entry():
    without_package = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    parts = [part for part, _, _ in settings.OPTIMIZER_PACKAGES]
    assert {o.value for o in OptimizerNames if not any(part in o.value for part in parts)} == without_package
    assert set(PACKAGES) == set(INTEGRATION_TO_CALLBACK)
