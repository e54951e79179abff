"""The shell scripts and the small programs: what they run, and what they say to a mistake."""

import os
import shlex
import subprocess
import sys

import pytest
from toy import ARCHITECTURES, REPOSITORY, config_settings

import fill_mask
import prepare_data
import train_tokenizer
from recipe.arguments import DataArguments, ModelArguments, ObjectiveArguments, PretrainArguments, parse
from recipe.corpus import open_corpus
from recipe.errors import UserError
from recipe.model import HEADS, load_config
from run_clm import CausalArguments

SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "medium": (8, 512, 8), "base": (12, 768, 12)}
SIZES["large"] = (24, 1024, 16)


def test_every_family_has_its_configs():
    found = {path.stem for path in (REPOSITORY / "configs").glob("*.json")}
    assert found == {f"{family}_{size}" for family in HEADS for size in SIZES} - {"modernbert_large"}


def pretrain(*arguments, **exports):
    environment = {k: v for k, v in os.environ.items() if k not in ("MODEL", "TOKENIZER", "DATASET")}
    environment |= {"PYTHON": sys.executable, "DRY_RUN": "1"} | exports
    command = ["bash", str(REPOSITORY / "pretrain.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def flags_of(printed: str) -> dict[str, str]:
    words = shlex.split(printed)
    return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def test_by_default_pretrain_runs_the_demonstration(tmp_path):
    done = pretrain()
    words = shlex.split(done.stdout)
    assert words[1] == "run_mlm.py" and done.returncode == 0
    flags = flags_of(done.stdout)
    assert flags["--dataset_name"] == "docstrings" and flags["--tokenizer_name"] == "train"
    assert flags["--config_name"] == "configs/roberta_tiny.json" and flags["--max_seq_length"] == "128"
    assert "--bf16" not in flags and "--deepspeed" not in flags
    parse((ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments), [*words[2:], "--use_cpu", "true"])
    causal = shlex.split(pretrain(OBJECTIVE="clm").stdout)
    assert causal[1] == "run_clm.py" and "runs/clm-roberta_tiny-docstrings-L128-B32-lr3e-3-seed42" in causal
    differ = ("run_clm.py", "run_mlm.py", "runs/", "roberta_tiny-docs")
    assert [w for w in causal if not any(d in w for d in differ)] == [
        w for w in words if not any(d in w for d in differ)
    ]
    parse((ModelArguments, DataArguments, CausalArguments, PretrainArguments), [*causal[2:], "--use_cpu", "true"])


def test_another_corpus_gets_the_known_recipe_and_a_global_batch_means_the_same_on_many_devices():
    exports = {"MODEL": "configs/roberta_medium.json", "TOKENIZER": "roberta-base", "NPROC_PER_NODE": "8"}
    done = pretrain(DATASET="JackBAI/bert_pretrain_datasets", **exports, DS_CONFIG="ds_config/zero2_bf16.json")
    flags = flags_of(done.stdout)
    expected = {
        "--max_steps": "30000", "--global_batch_size": "8192", "--max_seq_length": "512", "--learning_rate": "1e-3",
        "--warmup_steps": "1800", "--lr_scheduler_type": "linear", "--adam_epsilon": "1e-6", "--adam_beta1": "0.9",
        "--adam_beta2": "0.98", "--weight_decay": "0.01", "--deepspeed": "ds_config/zero2_bf16.json",
        "--nproc_per_node": "8", "--dataset_name": "JackBAI/bert_pretrain_datasets",
    }  # fmt: skip
    assert {name: flags.get(name) for name in expected} == expected
    assert "-m recipe.launch" in done.stdout and "--gradient_accumulation_steps" not in flags


def test_nodes_meet_at_the_master_and_flags_of_the_command_line_come_last():
    where = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    done = pretrain("--mlm_probability", "0.3", **where)
    flags = flags_of(done.stdout)
    assert (flags["--nnodes"], flags["--node_rank"], flags["--master_addr"]) == ("2", "1", "10.0.0.1")
    assert shlex.split(done.stdout)[-2:] == ["--mlm_probability", "0.3"]
    hours = flags_of(pretrain(MAX_HOURS="1.5").stdout)
    assert hours["--max_hours"] == "1.5" and "--max_steps" not in hours
    assert "--save_at 250 500 1000 --logging_steps" in pretrain(SAVE_AT="250 500 1000").stdout
    missing = pretrain(NNODES="2")
    assert missing.returncode != 0 and "MASTER_ADDR: set it to" in missing.stderr


@pytest.mark.parametrize("script", ["pretrain.sh", "finetune_glue.sh", "finetune_qa.sh", "test.sh"])
def test_scripts_end_in_exec_so_that_signals_reach_python(script):
    assert (REPOSITORY / script).read_text().rstrip().splitlines()[-1].startswith("exec ")


def test_an_unknown_recipe_and_a_hostile_name():
    done = pretrain(RECIPE="fast")
    assert done.returncode == 2 and "expected demo or roberta" in done.stderr
    done = pretrain(OBJECTIVE="rtd")
    assert done.returncode == 2 and "expected mlm or clm" in done.stderr
    done = pretrain(DATASET="$(touch pwned).txt", RECIPE="demo")
    assert flags_of(done.stdout)["--dataset_name"] == "$(touch pwned).txt"
    assert not (REPOSITORY / "pwned").exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_configs(path):
    config = load_config(str(path))
    family, size = path.stem.split("_")
    layers, width, heads = SIZES[size]
    assert (config.model_type, config.architectures) == (family, [ARCHITECTURES[family]])
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    if family == "modernbert":
        # Its gated MLP has three matrices: two thirds of 4 x width each, in multiples of 64, cost what two of 4 x do.
        assert config.intermediate_size % 64 == 0 and abs(config.intermediate_size - width * 8 / 3) <= 32
        assert (config.vocab_size, config.max_position_embeddings, config.local_attention) == (50265, 8192, 128)
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (1, 0, 2)
        assert [kind == "full_attention" for kind in config.layer_types] == [n % 3 == 0 for n in range(layers)]
        return
    assert config.intermediate_size == 4 * width
    if family == "roberta":
        assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (50265, 514, 1)
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (1, 0, 2)
        assert config.layer_norm_eps == 1e-5
    else:
        assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (30522, 512, 2)
        assert (config.pad_token_id, config.layer_norm_eps) == (0, 1e-12)


def call(program, monkeypatch, capsys, *argv):
    monkeypatch.setattr("sys.argv", [program.__name__, *map(str, argv)])
    program.main()
    return capsys.readouterr().out


def test_tokenizer_tokens_and_blanks_one_after_the_other(monkeypatch, capsys, tmp_path, text_file):
    made = call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file, "--output_dir", tmp_path / "tokenizer",
                "--vocab_size", 300)  # fmt: skip
    assert "300 tokens in" in made
    data = ("--train_file", text_file, "--tokenizer_name", tmp_path / "tokenizer", "--prepared_dir", tmp_path / "data")
    first, again = (call(prepare_data, monkeypatch, capsys, *data) for _ in range(2))
    assert first == again and "train" in first and "documents" in first

    from transformers import AutoConfig, AutoTokenizer

    from recipe.model import build_model

    build_model(AutoConfig.for_model(**config_settings("roberta"))).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    text = "the <mask> sat on a <mask>"
    printed = call(fill_mask, monkeypatch, capsys, tmp_path / "model", text, "--top_k", 3)
    assert printed.count("%") == 6 and "blank" in printed
    for argv, message in (
        ((tmp_path / "model", "no blank"), "write ___ or <mask> where one is"),
        ((tmp_path / "none", text), "found no checkpoint"),
        ((tmp_path / "tokenizer", text), "found no config.json and no checkpoints"),
    ):
        with pytest.raises(UserError, match=message):
            call(fill_mask, monkeypatch, capsys, *argv)
    reported = call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file, "--output_dir", tmp_path / "uncased",
                    "--model", "wordpiece", "--vocab_size", 200, "--lowercase", "--held_out", 0.2,
                    "--compare", tmp_path / "tokenizer", "--min_frequency", 1)  # fmt: skip
    assert "held-out text" in reported and "uncased" in reported and "300" in reported and "0.000%" in reported
    quiet = call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file, "--output_dir", tmp_path / "plain",
                 "--held_out", 0, "--vocab_size", 300)  # fmt: skip
    assert "tokens a word" not in quiet
    learned = [AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("tokenizer", "plain")]
    assert learned[0] != learned[1]  # what is held out wasn't learned from
    with pytest.raises(UserError, match="found no tokenizer at"):
        call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file, "--output_dir", tmp_path / "never",
             "--compare", tmp_path / "none")  # fmt: skip
    assert not (tmp_path / "never").exists()
    with pytest.raises(UserError, match="found no --output_dir"):
        call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file)


def test_a_tokenizer_is_judged_on_documents_that_it_has_not_seen(text_file, documents):
    corpus = open_corpus(str(text_file))
    options = train_tokenizer.TokenizerArguments(output_dir="x", held_out=0.2)
    learned, held = (list(part(corpus, options)) for part in (train_tokenizer.learned_from, train_tokenizer.held_out))
    assert not set(learned) & set(held) and sorted(learned + held) == sorted(documents) and 20 < len(held) < 60


@pytest.mark.parametrize("program", ["run_mlm.py", pytest.param("run_clm.py", marks=pytest.mark.slow)])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, program):
    command = [sys.executable, str(REPOSITORY / program), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    command += ["--do_train", "--config_name", "configs/roberta_tiny.json", "--tokenizer_name", "train"]
    command += ["--train_file", str(tmp_path / "none.txt")]
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_MODE"}  # transformers announces it
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: found no text at") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
