"""--help of every program: each flag once, under a heading, with a sentence and its default, in 80 columns."""

import re
from dataclasses import fields

import pytest
from toy import REPOSITORY
from transformers import TrainingArguments

import fill_mask
import prepare_data
import recipe.average.averaging
import recipe.compare.differences
import recipe.finetune.qa.scoring
import recipe.model.scale
import recipe.report.page
import recipe.report.publish
import recipe.report.scores
import recipe.sweep.sweep
import run_blimp
import run_clm
import run_glue
import run_mlm
import run_ner
import run_qa
import train_tokenizer
from recipe.cli.help_page import HEADINGS, OTHERS, program_of, split_docstring
from recipe.cli.parser import Parser
from recipe.train.settings import REFUSED, WITHOUT_EFFECT

PROGRAMS = {
    "run_mlm.py": run_mlm,
    "run_clm.py": run_clm,
    "run_glue.py": run_glue,
    "run_qa.py": run_qa,
    "run_blimp.py": run_blimp,
    "run_ner.py": run_ner,
    "prepare_data.py": prepare_data,
    "train_tokenizer.py": train_tokenizer,
    "fill_mask.py": fill_mask,
    "recipe/average/__main__.py": recipe.average.averaging,
    "recipe/compare/__main__.py": recipe.compare.differences,
    "recipe/sweep/__main__.py": recipe.sweep.sweep,
    "recipe/report/__main__.py": recipe.report.page,
    "recipe/report/scores.py": recipe.report.scores,
    "recipe/report/publish.py": recipe.report.publish,
    "recipe/model/scale.py": recipe.model.scale,
    "recipe/finetune/qa/scoring.py": recipe.finetune.qa.scoring,
}
# Private English, and "tokens a step" for "tokens per step".
BANNED = re.compile(
    r"\b(room|laws?|elsewhere|told|today|hush\w*|settle\w*|mend\w*|houses?|doors?|guess a blank|one's own"
    r"|(?:steps?|tokens?|sequences|examples|windows|workers?|process|processes|guesses|nats|bytes|jobs?) an? \w+)\b",
    flags=re.IGNORECASE,
)
ENTRY = re.compile(r"^  (--\w+)")


@pytest.fixture
def page_of(monkeypatch, capsys):
    """(the page that a program prints, its parser)."""

    def page(name):
        parsers, made = [], Parser.format_help
        monkeypatch.setattr(Parser, "format_help", lambda self: parsers.append(self) or made(self))
        monkeypatch.setattr("sys.argv", [str(REPOSITORY / name), "--help"])
        with pytest.raises(SystemExit) as ended:
            PROGRAMS[name].main()
        assert ended.value.code == 0 and len(parsers) == 1
        return capsys.readouterr().out, parsers[0]

    return page


def groups_of(page: str) -> dict[str, dict[str, str]]:
    """{title: {flag: its sentence}}"""
    groups: dict[str, dict[str, str]] = {}
    title = flag = ""
    for line in page.partition("\nExamples:")[0].splitlines():
        if re.match(r"\S.*:$", line):
            title, flag = line.removesuffix(":"), ""
            groups[title] = {}
        elif entry := ENTRY.match(line):
            flag = entry[1].removeprefix("--")
            assert flag not in groups[title]
            groups[title][flag] = line[28:].strip() if len(line) > 28 and line[26:28] == "  " else ""
        elif flag and line.startswith(" " * 28):
            groups[title][flag] = f"{groups[title][flag]} {line.strip()}".strip()
    return groups


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_help_page(name, page_of):
    page, parser = page_of(name)
    assert max(map(len, page.splitlines())) <= 80
    assert not BANNED.findall(page)

    groups = groups_of(page)
    shown = [flag for group in groups.values() for flag in group]
    assert sorted(shown) == sorted({a.dest for a in parser._actions if a.option_strings} - {"help"})
    for flag, sentence in ((flag, sentence) for group in groups.values() for flag, sentence in group.items()):
        assert re.match(r"[A-Za-z].{4}", sentence), flag
        assert re.search(r"by default|\(default: |Required\.$", sentence, flags=re.IGNORECASE), flag
        assert "%" not in sentence or re.search(r"\d%|percent", sentence), flag
    titles = [heading.title for heading in (*HEADINGS, OTHERS)]
    assert list(groups) == [title for title in titles if title in groups]
    assert set(groups.get(OTHERS.title, ())) <= {field.name for field in fields(TrainingArguments)}

    examples = page.partition("\nExamples:\n")[2]
    program = program_of(str(REPOSITORY / name))
    assert page.startswith(f"usage: {program} ")
    assert len(re.findall(r"^  \S", examples, flags=re.M)) >= 2 and f"  {program} " in examples


def test_flags_that_are_refused_or_have_no_effect_say_so_and_come_last(page_of):
    for name in ("run_mlm.py", "run_glue.py"):
        others = groups_of(page_of(name)[0])[OTHERS.title]
        assert all(others[flag].startswith("Refused: ") for flag in REFUSED)
        assert all(others[flag].startswith("No effect: ") for flag in WITHOUT_EFFECT)
    assert "label_smoothing_factor" in groups_of(page_of("run_glue.py")[0])["Optimizer and learning rate"]
    assert "label_smoothing_factor" in groups_of(page_of("run_mlm.py")[0])[OTHERS.title]


def test_defaults_are_those_of_the_program(page_of):
    pretraining, tuning = groups_of(page_of("run_mlm.py")[0]), groups_of(page_of("run_glue.py")[0])
    assert pretraining["Objective"]["mlm_probability"].endswith("(default: 0.15)")
    assert pretraining["Engine"]["ddp_timeout"] == "Timeout of collective operations, in seconds. (default: 600)"
    assert pretraining["Tokenisation"]["max_seq_length"].endswith("(default: 512)")
    assert tuning["Tokenisation"]["max_seq_length"].endswith("(default: 128)")
    assert tuning["Optimizer and learning rate"]["learning_rate"] == "Peak learning rate; by default the task's."
    assert tuning["Actions"]["save_model"].endswith("(default: true)")
    assert tuning["Saving and resuming"]["save_strategy"].endswith("(default: no)")


def test_each_flag_has_one_heading_and_each_heading_has_flags_of_a_program(page_of):
    named = [flag for heading in HEADINGS for flag in heading.flags.split()]
    assert len(named) == len(set(named))
    known = {action.dest for name in PROGRAMS for action in page_of(name)[1]._actions}
    assert set(named) <= known


def test_a_docstring_is_text_and_examples():
    text, examples = split_docstring("One line\ntwo.\n\n    python a.py \\\n        --b c\n\nMore.\n")
    assert text == "One line two.\n\nMore." and examples == "  python a.py \\\n      --b c"


def test_what_one_types_to_start_a_program():
    assert program_of("run_mlm.py") == program_of("/clones/recipe/run_mlm.py") == "python run_mlm.py"
    assert program_of(f"{REPOSITORY}/recipe/sweep/__main__.py") == "python -m recipe.sweep"
    assert program_of(f"{REPOSITORY}/recipe/report/scores.py") == "python -m recipe.report.scores"
