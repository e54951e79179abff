"""Flags of older transformers versions and of other programs, and what replaces them.

A flag with the same meaning is accepted with a warning; for any other, an error names what to write instead.
"""

import re
from dataclasses import dataclass

from recipe.system.errors import UserError

ANY = r".*"
BOOLEAN = r"(?i:|true|false|yes|no|1|0)"  # empty for a flag without a value
FP32 = r"auto|float32|fp32"
RENAMED, DROPPED, REPLACED = "renamed", "dropped", "replaced"


@dataclass(frozen=True)
class Answer:
    """How to treat an old flag whose value matches the pattern `values`: it is RENAMED to `text` with the same meaning,
    DROPPED as it has no effect, for the reason `text`, or REPLACED by `text`, which the user has to write ({} stands
    for the value)."""

    kind: str
    text: str
    values: str = ANY


def renamed(name: str) -> tuple[Answer, ...]:
    """A flag with the same meaning and values as the flag `name`."""
    return (Answer(RENAMED, name),)


def dropped(why: str, values: str = BOOLEAN) -> tuple[Answer, ...]:
    """A flag that has no effect."""
    return (Answer(DROPPED, why, values),)


def replaced(text: str) -> tuple[Answer, ...]:
    """A flag whose successor differs in name, unit or meaning."""
    return (Answer(REPLACED, text),)


LEAVE_OUT = replaced("nothing: leave it out")
SAME_WEIGHTS = dropped("weights are kept in fp32", FP32) + replaced("--bf16 for mixed precision")
BATCH = replaced("--per_device_train_batch_size per device, or --global_batch_size {} for all devices together")
MODEL = replaced("--model_name_or_path {} to continue its training, or --config_name {} for fresh weights")

OLD_FLAGS: dict[str, tuple[Answer, ...]] = {
    # transformers.TrainingArguments of older versions
    "overwrite_output_dir": dropped(
        "a run continues from its newest checkpoint; to start over, choose another --output_dir"
    ),
    "evaluation_strategy": renamed("eval_strategy"),
    "evaluate_during_training": replaced("--eval_strategy steps"),
    "warmup_ratio": renamed("warmup_steps"),  # below 1, a share of the run's steps
    "no_cuda": renamed("use_cpu"),
    "use_mps_device": dropped("an Apple GPU is used where available"),
    "per_gpu_train_batch_size": renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": renamed("per_device_eval_batch_size"),
    "logging_dir": replaced("TENSORBOARD_LOGGING_DIR={} before the command"),
    "group_by_length": dropped("blocks have one length, and examples of similar length are always batched together"),
    "save_safetensors": dropped("weights are always saved as safetensors"),
    "include_tokens_per_second": dropped("tokens_per_second is always logged"),
    "adafactor": replaced("--optim adafactor"),
    "fp16_opt_level": dropped("it is a setting of Apex, which isn't used; --bf16 enables mixed precision", ANY),
    "fp16_backend": dropped("mixed precision is PyTorch's own", ANY),
    "half_precision_backend": dropped("mixed precision is PyTorch's own", ANY),
    "push_to_hub_token": renamed("hub_token"),
    "push_to_hub_model_id": renamed("hub_model_id"),
    "push_to_hub_organization": replaced("--hub_model_id {}/NAME"),
    "torchdynamo": renamed("torch_compile_backend"),
    "xpu_backend": renamed("ddp_backend"),
    "sharded_ddp": replaced("--deepspeed ds_config/zero2_bf16.json"),
    "fsdp_transformer_layer_cls_to_wrap": replaced("--deepspeed ds_config/zero3_bf16.json"),
    "fsdp_min_num_params": replaced("--deepspeed ds_config/zero3_bf16.json"),
    "deepspeed_config": renamed("deepspeed"),
    "jit_mode_eval": LEAVE_OUT,
    "use_ipex": LEAVE_OUT,
    "past_index": LEAVE_OUT,
    "ray_scope": LEAVE_OUT,
    "tpu_num_cores": LEAVE_OUT,
    "tpu_metrics_debug": replaced("--debug tpu_metrics_debug"),
    # older versions of the example scripts, and those without the Trainer
    "use_auth_token": dropped("the token of `hf auth login` is always used") + renamed("token"),
    "torch_dtype": SAME_WEIGHTS,
    "dtype": SAME_WEIGHTS,
    "low_cpu_mem_usage": dropped("models are always loaded that way"),
    "mlm": replaced("nothing: leave it out; run_mlm.py has this objective and run_clm.py the causal one"),
    "block_size": replaced("--max_seq_length {}"),
    "max_length": replaced("--max_seq_length {}"),
    "train_data_file": renamed("train_file"),
    "eval_data_file": renamed("validation_file"),
    "predict_file": renamed("validation_file"),
    "data_dir": renamed("glue_data"),
    "do_lower_case": LEAVE_OUT,  # a property of the tokenizer
    "max_query_length": LEAVE_OUT,
    "max_train_steps": renamed("max_steps"),
    "num_warmup_steps": renamed("warmup_steps"),
    "checkpointing_steps": replaced("--save_steps {}"),
    "with_tracking": replaced("--report_to wandb"),
    "early_stopping_patience": LEAVE_OUT,
    # other pre-training programs
    "context_length": replaced("--max_seq_length {}"),
    "seq_length": replaced("--max_seq_length {}"),
    "sequence_length": replaced("--max_seq_length {}"),
    "num_training_steps": replaced("--max_steps {}"),
    "num_train_steps": replaced("--max_steps {}"),
    "total_steps": replaced("--max_steps {}"),
    "num_epochs": replaced("--num_train_epochs {}"),
    "epochs": replaced("--num_train_epochs {}"),
    "evaluation_interval": replaced("--eval_strategy steps --eval_steps {}"),
    "eval_interval": replaced("--eval_strategy steps --eval_steps {}"),
    "checkpoint_interval": replaced("--save_steps {}"),
    "save_interval": replaced("--save_steps {}"),
    "log_interval": replaced("--logging_steps {}"),
    "working_directory": replaced("--output_dir {}"),
    "experiment_name": replaced("--run_name {}"),
    "hf_model_name": MODEL,
    "model_name": MODEL,
    "huggingface_cache_dir": replaced("--cache_dir {}"),
    "path_to_prepped_data": replaced("--dataset_name {}"),
    "path_to_data_store": replaced("--prepared_dir {}"),
    "test_split_pct": replaced("--validation_split_percentage in percent, 0.5 for a share of 0.005"),
    "masking_probability": replaced("--mlm_probability {}"),
    "masked_lm_prob": replaced("--mlm_probability {}"),
    "max_predictions_per_seq": replaced("--mlm_probability, a share of the tokens: 0.15 for 77 of 512"),
    "hidden_dropout_p": replaced("--dropout {}"),
    "attention_dropout_p": replaced("--dropout {}"),
    "num_transformer_blocks": replaced("--config_overrides num_hidden_layers={}"),
    "embedding_dimension": replaced("--config_overrides hidden_size={}"),
    "per_gpu_batch_size": replaced("--per_device_train_batch_size {}"),
    "per_device_batch_size": replaced("--per_device_train_batch_size {}"),
    "train_batch_size": BATCH,
    "batch_size": BATCH,
    "eval_batch_size": replaced("--per_device_eval_batch_size {}"),
    "num_workers": replaced("--dataloader_num_workers {}"),
    "lr": replaced("--learning_rate {}"),
    "lr_scheduler": replaced("--lr_scheduler_type {}"),
    "bert_config_file": replaced("--config_name {}"),
    "init_checkpoint": replaced("--model_name_or_path {}"),
    "log_wandb": replaced("--report_to wandb"),
}


def translate(argv: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """(`argv` with current flags, a warning for each old flag that was accepted). The program's own flags, `known`
    ("--seed"), are left unchanged, as are flags that are not in the table.

    Raises UserError, in one line, for all flags that the user has to replace.
    """
    words: list[str] = []
    warnings: list[str] = []
    wrong: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not equals and rest and not rest[0].startswith("--"):
            value = rest[0]
        answer = None if flag in known or not flag.startswith("--") else _answer(name, value, known)
        if answer is None:
            words.append(word)
        elif answer.kind == RENAMED:
            if _is_given(answer.text, argv):
                raise UserError(f"found both --{name} and --{answer.text}, its new name: leave out --{name}")
            words.append(f"--{answer.text}{word[len(flag) :]}")  # its value follows in the next iteration
            warnings.append(f"--{name} is an old name of --{answer.text}")
        else:
            if value and not equals:
                rest.pop(0)
            if answer.kind == DROPPED:
                warnings.append(f"--{name} has no effect: {answer.text}")
            else:
                wrong.append(f"for --{name} write {answer.text.replace('{}', value or 'VALUE')}")
    if wrong:
        raise UserError(f"found flags of an older version or of another program: {'; '.join(wrong)}")
    return words, warnings


def _answer(name: str, value: str, known: set[str]) -> Answer | None:
    """The first answer for `value` that names a flag of the program."""
    for answer in OLD_FLAGS.get(name, ()):
        needed = {
            RENAMED: [f"--{answer.text}"],
            DROPPED: ["--per_device_train_batch_size"],  # only programs that train had them
            REPLACED: re.findall(r"--\w+", answer.text)[:1],
        }[answer.kind]
        if re.fullmatch(answer.values, value) and all(flag in known for flag in needed):
            return answer
    return None


def _is_given(name: str, argv: list[str]) -> bool:
    flags = {f"--{name}", f"--{name.replace('_', '-')}"}
    return any(word.partition("=")[0] in flags for word in argv)
