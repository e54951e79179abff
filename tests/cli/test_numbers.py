"""Every numeric flag of every script with absurd numbers: a one-line error that names the flag, or a documented meaning.

Covers parsing, up to the creation of TrainingArguments and dataclasses; no run starts.
"""

import pytest

import fill_mask
import prepare_data
import recipe.report.page
import recipe.report.publish
import recipe.report.scores
import recipe.sweep.plan
import run_clm
import run_glue
import run_mlm
import run_qa
import train_tokenizer
from recipe.cli import parser as command_line
from recipe.cli.numbers import NUMBERS
from recipe.data.arguments import DataArguments
from recipe.model.arguments import ModelArguments
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments

TRAINS = ("--use_cpu", "--output_dir", "run")
SCRIPTS = {  # the flags that each requires
    prepare_data: (),
    train_tokenizer: ("--output_dir", "tokenizer"),
    run_mlm: TRAINS,
    run_clm: TRAINS,
    run_glue: (*TRAINS, "--model_name_or_path", "m", "--task_name", "rte"),
    run_qa: (*TRAINS, "--model_name_or_path", "m"),
    fill_mask: ("m",),
    recipe.sweep.plan: ("--runs", "m"),
    recipe.report.scores: ("--folder", "f"),
    recipe.report.page: ("r",),
    recipe.report.publish: ("r", "f"),
}
ABSURD = ("nan", "inf", "-inf", "-1", "0", "1e308", "99999999999999999999")
ACCEPTED = {  # absurd values that have a meaning
    "0": [
        "learning_rate",
        "learning_rates",
        "warmup_steps",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "max_grad_norm",
        "label_smoothing_factor",
        "eval_delay",
        "save_total_limit",
        "seed",
        "data_seed",
        "seeds",
        "dataloader_num_workers",
        "local_rank",
        "dropout",
        "mask_replace_prob",
        "random_replace_prob",
        "batch_warmup_steps",
        "min_frequency",
        "held_out",
        "doc_stride",
        "null_score_diff_threshold",
        "max_checkpoints",
    ],
    "-1": ["max_steps", "save_total_limit", "local_rank", "null_score_diff_threshold"],
}


class Captured(Exception):
    """Carries the arguments that a script passes to `parse`."""


@pytest.fixture
def parser_of(monkeypatch):
    """The parser that a script's main() uses."""

    def captured(dataclasses, *_, positional=(), **__):
        raise Captured(dataclasses, positional)

    def parser(script) -> command_line.Parser:
        if script is recipe.sweep.plan:
            return command_line.Parser((recipe.sweep.plan.SweepArguments,))
        with monkeypatch.context() as patched, pytest.raises(Captured) as caught:
            patched.setattr(script, "parse", captured)
            patched.setattr("sys.argv", ["script", *SCRIPTS[script]])
            script.main()
        dataclasses, positional = caught.value.args
        parser = command_line.Parser(dataclasses)
        for name in positional:
            parser.add_argument(name, nargs="+" if name.endswith("...") else None)
        return parser

    return parser


def numeric(parser) -> list[str]:
    return list(dict.fromkeys(action.dest for action in parser._actions if action.type in (int, float)))


def test_an_absurd_number_gets_one_line_or_has_a_meaning(parser_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tried, accepted = 0, {}
    parsers = {script: parser_of(script) for script in SCRIPTS}
    for script, parser in parsers.items():
        monkeypatch.setattr(command_line, "Parser", lambda *_, parser=parser, **__: parser)  # creating one takes 50 ms
        monkeypatch.setattr(recipe.sweep.plan, "Parser", command_line.Parser)
        for name in numeric(parser):
            for value in ABSURD:
                tried += 1
                argv = [*SCRIPTS[script], f"--{name}={value}"]
                try:
                    read(script, argv)
                except UserError as error:
                    assert f"--{name}" in str(error) and "\n" not in str(error), (script.__name__, argv, str(error))
                    assert len(str(error)) < 300
                else:
                    accepted.setdefault(value, set()).add(name)
    assert {value: sorted(names) for value, names in accepted.items()} == {
        value: sorted(names) for value, names in ACCEPTED.items()
    }
    assert not list(tmp_path.iterdir())
    print(f"{tried} absurd numbers tried, {sum(map(len, accepted.values()))} of them have a meaning")
    assert tried > 1000


def read(script, argv):
    if script is recipe.sweep.plan:
        parser = recipe.sweep.plan.Parser()
        return parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    return command_line.parse((), argv)


def test_every_numeric_flag_has_a_range(parser_of):
    known = {name for script in SCRIPTS for name in numeric(parser_of(script))}
    assert known - set(NUMBERS) == set()  # a new flag: add its range
    assert set(NUMBERS) - known == set()  # a removed flag: delete its range


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rate", "-1"], "found --learning_rate -1.0, expected at least 0 and at most 1,000$"),
        (["--adam_beta1", "1.5"], "found --adam_beta1 1.5, expected at least 0 and less than 1$"),
        (["--adam_beta2", "1"], "found --adam_beta2 1.0, expected at least 0 and less than 1$"),
        (["--adam_epsilon", "-1"], "found --adam_epsilon -1.0, expected more than 0 and at most 1$"),
        (
            ["--max_steps", "-5"],
            "found --max_steps -5, expected at least 1 .*, or -1 for as many as --num_train_epochs",
        ),
        (["--save_steps", "2.5"], "found --save_steps 2.5, expected more than 0 and .* a whole number if 1 or more$"),
        (["--seed", "4294967296"], "found --seed 4294967296, expected at least 0 and at most 4,294,967,295$"),
        (["--save_at", "5", "0"], "found --save_at 0"),
        (
            ["--optim", "sgd", "--optim_args", "momentum=much"],
            "found --optim sgd with --optim_args momentum=much: could",
        ),
        (["--optim", "sgd", "--optim_args", "momentum"], "found --optim sgd with --optim_args momentum: "),
        (["--output_dir", ""], "found no --output_dir"),
    ],
)
def test_the_message_names_what_was_found_and_expected(argv, message):
    with pytest.raises(UserError, match=message):
        command_line.parse((ModelArguments, DataArguments, PretrainArguments), [*TRAINS, *argv])
