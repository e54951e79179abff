"""The shell scripts and the small programs: what they run, and what they say to a mistake."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from toy import ARCHITECTURES, REPOSITORY, config_settings

import fill_mask
import prepare_data
import train_tokenizer
from recipe.cli.parser import parse
from recipe.data.arguments import DataArguments
from recipe.data.corpus import open_corpus
from recipe.model.arguments import ModelArguments
from recipe.model.config import load_config
from recipe.model.families import FAMILIES
from recipe.objective.arguments import ObjectiveArguments
from recipe.system.errors import UserError
from recipe.system.runtime import has_fast_bf16
from recipe.train.arguments import PretrainArguments
from run_clm import CausalArguments

SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "medium": (8, 512, 8), "base": (12, 768, 12)}
SIZES["large"] = (24, 1024, 16)


def test_every_family_has_its_configs():
    found = {path.stem for path in (REPOSITORY / "configs").glob("*.json")}
    families = {stem.split("_")[0] for stem in found}
    assert families >= {"roberta", "bert", "modernbert"} and families <= set(FAMILIES)
    assert found == {f"{family}_{size}" for family in families for size in SIZES} - {"modernbert_large"}


def pretrain(*arguments, **exports):
    environment = {k: v for k, v in os.environ.items() if k not in ("MODEL", "TOKENIZER", "DATASET")}
    environment |= {"PYTHON": sys.executable, "DRY_RUN": "command"} | exports
    command = ["bash", str(REPOSITORY / "pretrain.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def flags_of(printed: str) -> dict[str, str]:
    words = shlex.split(printed)
    return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def test_by_default_pretrain_runs_the_demonstration(tmp_path):
    done = pretrain()
    words = shlex.split(done.stdout)
    words = words[words.index("run_mlm.py") - 1 :]  # a launcher of one process per core is before it
    assert done.returncode == 0
    flags = flags_of(done.stdout)
    assert flags["--dataset_name"] == "docstrings" and flags["--tokenizer_name"] == "train"
    assert flags["--config_name"] == "configs/roberta_tiny.json" and flags["--max_seq_length"] == "128"
    assert "--deepspeed" not in flags
    parsed = parse((ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments), words[2:])
    assert ("--bf16" in flags) == parsed[3].bf16 == has_fast_bf16(parsed[3].device)
    causal = shlex.split(pretrain(OBJECTIVE="clm").stdout)
    assert "run_clm.py" in causal and "runs/clm-roberta_tiny-docstrings-L128-B32-lr3e-3-seed42" in causal
    differ = ("run_clm.py", "run_mlm.py", "runs/", "roberta_tiny-docs")
    causal = causal[causal.index("run_clm.py") - 1 :]
    assert [w for w in causal if not any(d in w for d in differ)] == [
        w for w in words if not any(d in w for d in differ)
    ]
    flags = causal[causal.index("run_clm.py") + 1 :]
    parse((ModelArguments, DataArguments, CausalArguments, PretrainArguments), flags)


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


@pytest.mark.parametrize("script", ["pretrain.sh", "finetune_glue.sh", "finetune_qa.sh", "test.sh"])
def test_scripts_end_in_exec_so_that_signals_reach_python(script):
    assert (REPOSITORY / script).read_text().rstrip().splitlines()[-1].startswith("exec ")


WHOLE = "expected a whole number from"
NUMBER = "expected a number of at least 0"
NO_RUN = "found no RUN: name a folder"
MISTAKES = [  # script, one of its variables, the value, what is said
    *(("pretrain.sh", "NPROC_PER_NODE", value, f"{WHOLE} 1") for value in ("abc", "1.5", "0", "-2", "08", "9" * 20, "a[$(touch pwned)]")),
    *(("pretrain.sh", name, "abc", WHOLE) for name in ("NNODES", "GLOBAL_BATCH_SIZE", "MICRO_BATCH_SIZE", "MAX_STEPS", "SEQ_LENGTH")),
    *(("pretrain.sh", name, "abc", WHOLE) for name in ("EVAL_BLOCKS", "VOCAB_SIZE", "SEED", "MASTER_PORT")),
    *(("pretrain.sh", name, "-1", NUMBER) for name in ("PEAK_LR", "WARMUP_STEPS", "SAVE_STEPS", "DROPOUT", "MAX_HOURS", "WEIGHT_DECAY")),
    ("pretrain.sh", "PEAK_LR", "nan", NUMBER),
    ("pretrain.sh", "SAVE_AT", "250 x", "found SAVE_AT=x"),
    *(("pretrain.sh", name, "-x.txt", "would be read as a flag: write ./-x.txt") for name in ("MODEL", "TOKENIZER", "DATASET", "OUTPUT_DIR", "PREPARED_DIR", "DS_CONFIG")),
    *(("pretrain.sh", name, "", f"found {name}='', expected a name") for name in ("MODEL", "TOKENIZER", "DATASET", "OUTPUT_DIR")),
    ("pretrain.sh", "NNODES", "2", "found NNODES=2 and no MASTER_ADDR: set it to"),
    ("pretrain.sh", "RECIPE", "fast", "expected auto or demo or roberta"),
    ("pretrain.sh", "OBJECTIVE", "rtd", "expected mlm or clm"),
    ("finetune_glue.sh", "RUN", "", NO_RUN),
    ("finetune_qa.sh", "RUN", "", NO_RUN),
    *((f"finetune_{kind}.sh", name, value, said) for kind in ("glue", "qa") for name, value, said in (
        ("RUN", "-x", "would be read as a flag"),
        ("SEEDS", "1 abc", f"found SEEDS=abc, {WHOLE} 0"),
        ("WORKERS", "abc", f"{WHOLE} 1"),
        ("LEARNING_RATES", "1e-4 abc", f"found LEARNING_RATES=abc, {NUMBER}"),
        ("BATCH_SIZES", "16 0", f"found BATCH_SIZES=0, {WHOLE} 1"),
        ("EPOCHS", "many", NUMBER),
        ("OUTPUT_DIR", "-x", "would be read as a flag"),
        ("ENGINE", "spark", "expected processes or ray"),
    )),
    ("finetune_glue.sh", "TASKS", " ", "expected at least one value"),
    ("finetune_qa.sh", "TASK", "cola", "expected squad or squad_v2"),
    ("finetune_qa.sh", "SEQ_LENGTH", "abc", f"{WHOLE} 1"),
    *(("launch/slurm.sh", name, "abc", WHOLE) for name in ("NODES", "GPUS_PER_NODE", "CPUS_PER_NODE", "ARRAY", "STOP_SECONDS")),
    *(("launch/ray.sh", name, "abc", WHOLE) for name in ("NUM_WORKERS", "GPUS_PER_WORKER", "CPUS_PER_WORKER", "MAX_FAILURES")),
]  # fmt: skip


@pytest.mark.parametrize(("script", "name", "value", "message"), MISTAKES)
def test_a_wrong_variable_is_one_line_before_anything_is_installed_or_written(tmp_path, script, name, value, message):
    for file in ("checks.sh", "environment.sh", script):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    before = sorted(tmp_path.rglob("*"))
    environment = {"PATH": os.defpath, "PYTHON": str(tmp_path / "none"), "RUN": "runs/x"} | {name: value}
    command = ["bash", script, *(("pretrain.sh",) if script.startswith("launch/") else ())]
    if script == "launch/slurm.sh":
        (tmp_path / "pretrain.sh").touch()
        before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_nodes_are_numbered_from_0():
    for more, said in (({}, "no NODE_RANK: set it"), ({"NODE_RANK": "2"}, "expected nodes numbered from 0")):
        done = pretrain(NNODES="2", MASTER_ADDR="10.0.0.1", **more)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_hostile_name():
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
    met = [line for line in first.splitlines() if line.startswith("tokenizer ")]
    assert first.replace("\n".join([*met, ""]), "") == again and "train" in again and "documents" in again
    assert len(met) == 1 and "tokens per word, 0.00% unknown in a sample of corpus.txt" in met[0]

    from transformers import AutoConfig, AutoTokenizer

    from recipe.model.loading import build_model

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
    assert "tokens per word, 0.00% unknown in a sample of the training text" in quiet and "bytes per token" not in quiet
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
    learned, held = (
        list(train_tokenizer.training_documents(corpus, options)),
        list(train_tokenizer.report_documents(corpus, options)[0]()),
    )
    assert not set(learned) & set(held) and sorted(learned + held) == sorted(documents) and 20 < len(held) < 60


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--vocab_size", 5, "found VOCAB_SIZE 5, expected more than the 261 bytes and special tokens"),
        ("--vocab_size", 10**9, "found --vocab_size 1000000000, expected at least 1 and at most 2,097,152"),
        ("--model", "word", "found --model word, expected one of bpe, wordpiece, unigram"),
    ],
)
def test_a_tokenizer_with_absurd_settings_is_refused(monkeypatch, capsys, tmp_path, text_file, flag, value, message):
    with pytest.raises(UserError, match=message):
        call(train_tokenizer, monkeypatch, capsys, "--train_file", text_file, "--output_dir", tmp_path / "never", flag,
             value)  # fmt: skip
    assert not (tmp_path / "never").exists()


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
