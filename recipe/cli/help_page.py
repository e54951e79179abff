"""The page that --help prints: flags under headings, each with a sentence and its default, in 80 columns.

HEADINGS orders the flags of all programs; a program's page has those that it takes. The sentences are the `help` of the
dataclasses; a dataclass with a `flag_help` method gives those of the fields that it inherits from transformers.
"""

import argparse
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import string_to_bool

PACKAGE = Path(__file__).resolve().parent.parent
WIDTH = 79
COLUMN = 28  # where the sentences start; a flag that reaches into it has a line of its own
NO_BREAK = "\N{NO-BREAK SPACE}"
REFUSED, WITHOUT_EFFECT = "Refused: ", "No effect: "  # how the help of a flag begins that nobody should pass
PLACEHOLDERS = {int: "N", float: "X", string_to_bool: "BOOL"}  # of a flag's value, by type


@dataclass(frozen=True)
class Heading:
    """A group of flags, in the order in which they are shown, and a sentence about it."""

    title: str
    about: str
    flags: str


HEADINGS = (
    Heading(
        "Actions",
        "What to do, and where the results go.",
        "do_train do_eval do_predict output_dir overwrite_output_dir save_model folder upload_to dry_run "
        "allow_implausible",
    ),
    Heading(
        "Jobs",
        "A sweep runs one fine-tuning job per (checkpoint, task, seed).",
        "runs tasks seeds learning_rates batch_sizes mnli_init newest watch results_dir workers engine",
    ),
    Heading(
        "Model",
        "A new model from a config, or a checkpoint to continue from.",
        "model_name_or_path config_name model_type config_overrides dropout mnli_model checkpoint_name "
        "ignore_mismatched_sizes",
    ),
    Heading(
        "Tokenizer",
        "",
        "tokenizer_name model vocab_size lowercase min_frequency max_characters sample_share held_out compare "
        "add_tokens use_fast_tokenizer",
    ),
    Heading(
        "Data",
        "Which text, rows or questions.",
        "task_name glue_data blimp_data dataset_name mixture_temperature dataset_config_name train_file "
        "validation_file test_file "
        "version_2_with_negative validation_split_percentage max_train_samples max_eval_samples max_predict_samples",
    ),
    Heading(
        "File formats",
        "How local files are read.",
        "text_column text_columns text_column_name label_column label_column_name label_all_tokens "
        "regression line_by_line keep_linebreaks join_rows text_encoding "
        "csv_delimiter csv_quoting",
    ),
    Heading(
        "Tokenisation",
        "Text is tokenised once and reused by every run that asks for the same.",
        "max_seq_length block_size doc_stride pad_to_max_length prepared_dir overwrite_cache "
        "preprocessing_num_workers streaming",
    ),
    Heading(
        "Objective",
        "Masking options of the MLM objective.",
        "mlm_probability mlm_probability_end mask_replace_prob random_replace_prob whole_word_mask span_masking span_p "
        "span_max_length objective_schedule",
    ),
    Heading("Attention", "", "document_attention"),
    Heading(
        "Answers",
        "How an answer is chosen from the scores of its first and last token.",
        "n_best_size max_answer_length null_score_diff_threshold",
    ),
    Heading(
        "Steps and batch size",
        "Global batch size = micro-batch x gradient accumulation x devices.",
        "max_steps num_train_epochs max_hours global_batch_size per_device_train_batch_size "
        "gradient_accumulation_steps batch_warmup_start batch_warmup_steps short_seq_length short_seq_share phases",
    ),
    Heading(
        "Optimizer and learning rate",
        "",
        "learning_rate warmup_steps lr_scheduler_type lr_scheduler_kwargs optim optim_args weight_decay adam_beta1 "
        "adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor nonfinite",
    ),
    Heading("Randomness", "", "seed data_seed full_determinism"),
    Heading(
        "Saving and resuming",
        "The same command again resumes from the newest complete checkpoint, if one was saved.",
        "save_steps save_strategy save_at save_total_limit save_only_model resume_from_checkpoint branch_from "
        "allow_changed "
        "ema_decay",
    ),
    Heading(
        "Evaluation",
        "",
        "eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size batch_tokens within_word "
        "return_entity_level_metrics",
    ),
    Heading(
        "Logging and tracking",
        "",
        "logging_steps logging_strategy logging_first_step report_to run_name peak_tflops disable_tqdm",
    ),
    Heading(
        "Engine",
        "Precision, compilation, memory, DeepSpeed, devices and data loading.",
        "bf16 fp16 tf32 deepspeed torch_compile torch_compile_backend torch_compile_mode activation_checkpointing "
        "activation_checkpointing_kwargs use_cpu ddp_timeout ddp_backend dataloader_num_workers "
        "dataloader_prefetch_factor dataloader_pin_memory",
    ),
    Heading("Averages", "Which weights are averaged.", "last each ema"),
    Heading("Display", "What the page or table shows.", "top_k sentences max_checkpoints output_file json"),
    Heading(
        "Hugging Face Hub",
        "",
        "cache_dir model_revision token trust_remote_code push_to_hub hub_model_id hub_token hub_private_repo "
        "hub_strategy hub_always_push hub_revision license language",
    ),
)
OTHERS = Heading(
    "Other flags of transformers.TrainingArguments",
    "Those marked Refused end the run with the reason unless they have their default; those marked No effect are "
    "accepted with a warning.",
    "",
)


def help_page(parser: argparse.ArgumentParser, sentences: dict[str, str]) -> str:
    """The page for `parser`; `sentences` replace the help of the flags that they name."""
    positional = [action for action in parser._actions if not action.option_strings]
    words = [_placeholder(action) for action in positional]
    groups = groups_of(parser, sentences)
    lines = [" ".join(["usage:", parser.prog, *words, *["[FLAGS]"] * bool(groups)])]
    if not positional and {action.dest for action in parser._actions} & {"output_dir", "prepared_dir"}:
        lines += [f"       {parser.prog} FILE.json|FILE.yaml    the same flags as keys"]
    description, examples = split_docstring(parser.description or "")
    lines += ["", description] if description else []
    lines += (
        ["", *_filled("A flag without a value is a switch: --flag turns it on, --flag false off.")] if groups else []
    )
    for heading, actions in groups:
        lines += ["", f"{heading.title}:", *_filled(heading.about, "  ")]
        for action in actions:
            lines += _entry(action, sentences.get(action.dest, action.help or ""))
    if examples:
        lines += ["", "Examples:", examples]
    return "\n".join(lines) + "\n"


def groups_of(
    parser: argparse.ArgumentParser, sentences: dict[str, str]
) -> list[tuple[Heading, list[argparse.Action]]]:
    """The flags of `parser` under their headings, none without flags. Last come flags that no heading names, that are
    refused or that have no effect."""
    left: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            left.setdefault(action.dest, action)  # the first of a pair: --no_x has the same dest as --x
    useless = {name for name in left if sentences.get(name, "").startswith((REFUSED, WITHOUT_EFFECT))}
    groups = []
    for heading in HEADINGS:
        names = [name for name in heading.flags.split() if name in left and name not in useless]
        if names:
            groups.append((heading, [left.pop(name) for name in names]))
    return groups + ([(OTHERS, list(left.values()))] if left else [])


def split_docstring(text: str) -> tuple[str, str]:
    """(what it says, refilled; its indented paragraphs, which are commands) of a program's docstring."""
    paragraphs = [paragraph.strip("\n") for paragraph in text.split("\n\n") if paragraph.strip()]
    said = [paragraph for paragraph in paragraphs if not paragraph.startswith("    ")]
    examples = [textwrap.indent(textwrap.dedent(p), "  ") for p in paragraphs if p.startswith("    ")]
    return "\n\n".join("\n".join(_filled(paragraph)) for paragraph in said), "\n\n".join(examples)


def program_of(path: str) -> str:
    """What one types to start the program at `path`: python run_mlm.py, or python -m recipe.sweep."""
    file = Path(path).resolve().with_suffix("")
    if not file.is_relative_to(PACKAGE):
        return f"python {file.name}.py"
    module = ".".join(file.relative_to(PACKAGE.parent).parts)
    return f"python -m {module.removesuffix('.__main__')}"


def _filled(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _entry(action: argparse.Action, sentence: str) -> list[str]:
    """The lines of one flag."""
    name = f"  {action.option_strings[0]} {_placeholder(action)}".rstrip()
    lines = _filled(_with_default(action, sentence.replace("%%", "%")), " " * COLUMN)
    lines = [line.replace(NO_BREAK, " ") for line in lines]
    if len(name) + 2 <= COLUMN:
        return [name + lines[0][len(name) :], *lines[1:]]
    return [name, *lines]


def _placeholder(action: argparse.Action) -> str:
    """What stands for a flag's value."""
    if not action.option_strings:
        return action.dest.upper()
    if isinstance(action.default, bool):
        return ""
    _, _, kind = action.dest.rpartition("_")
    word = PLACEHOLDERS.get(action.type) or (kind.upper() if kind in ("dir", "file", "name") else "VALUE")
    return f"{word} ..." if action.nargs == "+" else word


def _with_default(action: argparse.Action, sentence: str) -> str:
    """A sentence with the values that a flag takes and its default, unless the sentence has them."""
    if (
        action.choices
        and not sentence.startswith((REFUSED, WITHOUT_EFFECT))
        and not (set(action.choices) & set(re.findall(r"\w+", sentence)))
    ):
        sentence += f" One of {', '.join(action.choices)}."
    if re.search(r"by default|\(default|Required\.$", sentence, flags=re.IGNORECASE):
        return sentence
    default = getattr(action.default, "value", action.default)
    words = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    words = words.lower() if isinstance(default, bool) else words
    return f"{sentence} (default:{NO_BREAK}{words if default not in (None, '', []) else 'none'})"
