"""Validation of the DeepSpeed configuration: the JSON of --deepspeed, compared with the flags before step 1."""

import json
from pathlib import Path

from transformers import TrainingArguments

from recipe.system.errors import UserError

AUTO = "auto"  # the Trainer fills in what the flags say
STAGES = (0, 1, 2, 3)
SECTIONS = ("zero_optimization", "bf16", "fp16", "optimizer", "scheduler", "checkpoint")


def check_deepspeed(args: TrainingArguments, devices: int) -> None:
    """Raises UserError, in one line, if args.deepspeed is not a DeepSpeed configuration or contradicts the flags;
    `devices` is the world size."""
    assert args.deepspeed is not None, "nothing to check without --deepspeed"
    name, config = _read(args.deepspeed)
    for section in SECTIONS:
        if not isinstance(config.get(section, {}), dict):
            raise UserError(f"{name} has {section} {json.dumps(config[section])}, expected an object")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        raise UserError(f"{name} has the ZeRO stage {json.dumps(stage)}, expected one of 0, 1, 2, 3")
    for precision, flag in (("bf16", args.bf16), ("fp16", args.fp16)):
        enabled = config.get(precision, {}).get("enabled", AUTO if precision == "bf16" else False)
        if enabled is True and not flag:
            remedy = "pass --bf16" if precision == "bf16" else "use ds_config/zero2_bf16.json and --bf16"
            raise UserError(f"{name} has {precision} on and the flags don't: {remedy}, or switch it off in the file")
        if enabled is False and flag:
            raise UserError(f'found --{precision}, and {name} has {precision} off: leave one out, or write "{AUTO}"')
    differ = [
        f"{key} is {json.dumps(found)} in the file, {json.dumps(expected)} in the flags"
        for key, expected in _expected_values(args, devices).items()
        if (found := _look_up(config, key)) not in (None, AUTO) and not _same(found, expected)
    ]
    if differ:
        raise UserError(f'{name} contradicts the flags: {"; ".join(differ)}: write "{AUTO}" in the file')


def _read(given: str | dict) -> tuple[str, dict]:
    """(name for messages, content) of a configuration given as a path, as JSON text or as a dict."""
    if isinstance(given, dict):
        return "the DeepSpeed configuration", given
    inline = given.lstrip().startswith(("{", "["))
    name = "the DeepSpeed configuration" if inline else given
    try:
        config = json.loads(given if inline else Path(given).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the DeepSpeed configuration {given}: {error.strerror}: expected a file like "
            "ds_config/zero2_bf16.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not JSON: {error}: fix it, or start from a file of ds_config/") from error
    if not isinstance(config, dict):
        raise UserError(f"{name} holds a {type(config).__name__}, expected an object like ds_config/zero2_bf16.json")
    return name, config


def _expected_values(args: TrainingArguments, devices: int) -> dict[str, object]:
    """{DeepSpeed key: its value in the flags} for each setting that both have."""
    expected: dict[str, object] = {
        "train_micro_batch_size_per_gpu": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "gradient_clipping": args.max_grad_norm,
        "optimizer.params.lr": args.learning_rate,
        "optimizer.params.betas": [args.adam_beta1, args.adam_beta2],
        "optimizer.params.eps": args.adam_epsilon,
        "optimizer.params.weight_decay": args.weight_decay,
        "scheduler.params.warmup_max_lr": args.learning_rate,
    }
    if args.per_device_train_batch_size is not None:  # None in fine-tuning: the task's default
        expected["train_batch_size"] = devices * args.per_device_train_batch_size * args.gradient_accumulation_steps
    if args.max_steps > 0:
        expected["scheduler.params.total_num_steps"] = args.max_steps
        expected["scheduler.params.warmup_num_steps"] = max(1, args.get_warmup_steps(args.max_steps))
    return {key: value for key, value in expected.items() if value is not None}


def _look_up(config: dict, key: str) -> object:
    found: object = config
    for part in key.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _same(found: object, expected: object) -> bool:
    """Whether two values are equal, as 1 and 1.0 are; a list with "auto" in it equals any list."""
    if isinstance(found, list) and isinstance(expected, list) and AUTO in found:
        return True
    return found == expected
