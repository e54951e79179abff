"""The calls of the example scripts' own tests, unchanged but for paths and models, and what those tests ask of them."""

import json

import pytest
from toy import config_settings
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import run_clm
import run_mlm


@pytest.fixture
def sample(tmp_path, documents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "sample_text.txt").write_text("\n\n".join(documents) + "\n")
    return tmp_path


def call(program, arguments: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr("sys.argv", [f"{program.__name__}.py", *arguments.split()])
    capsys.readouterr()
    assert program.main() == 0
    return capsys.readouterr().out


def results_of(folder) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def trained(program, folder, monkeypatch, capsys) -> None:
    """Makes `folder` a model that knows the toy text a little, as a pre-trained one knows a sample of English."""
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(config_settings("roberta", vocab_size=400, max_position_embeddings=514)))
    call(
        program,
        f"""--config_name {config} --tokenizer_name train --vocab_size 300 --train_file sample_text.txt
        --output_dir {folder} --do_train --max_steps 40 --learning_rate 3e-2 --max_seq_length 64 --save_strategy no
        --use_cpu""",
        monkeypatch,
        capsys,
    )


def test_run_clm(sample, monkeypatch, capsys):
    trained(run_clm, sample / "distilgpt2", monkeypatch, capsys)
    call(
        run_clm,
        """--model_name_or_path distilgpt2
        --train_file sample_text.txt
        --validation_file sample_text.txt
        --do_train
        --do_eval
        --block_size 128
        --per_device_train_batch_size 5
        --per_device_eval_batch_size 5
        --num_train_epochs 2
        --output_dir out
        --overwrite_output_dir
        --use_cpu""",
        monkeypatch,
        capsys,
    )
    results = results_of(sample / "out")
    assert results["perplexity"] < 100
    assert results["perplexity"] == results["eval_perplexity"]
    assert {"train_samples", "eval_samples", "train_loss", "eval_loss"} <= set(results)
    AutoModelForCausalLM.from_pretrained(sample / "out")
    AutoTokenizer.from_pretrained(sample / "out")


def test_run_clm_config_overrides(sample, bpe, monkeypatch, capsys):
    bpe.save_pretrained(sample / "gpt2")
    said = call(
        run_clm,
        """--model_type roberta
        --tokenizer_name gpt2
        --train_file sample_text.txt
        --output_dir out
        --config_overrides hidden_size=10,num_attention_heads=2
        --use_cpu""",
        monkeypatch,
        capsys,
    )
    assert '"hidden_size": 10' in said and '"num_attention_heads": 2' in said
    assert said.splitlines()[-1].startswith("found neither --do_train nor --do_eval: a roberta model of ")
    assert not (sample / "out").exists()


def test_run_mlm(sample, monkeypatch, capsys):
    trained(run_mlm, sample / "distilroberta-base", monkeypatch, capsys)
    command = """--model_name_or_path distilroberta-base
        --train_file sample_text.txt
        --validation_file sample_text.txt
        --output_dir out
        --overwrite_output_dir
        --do_train
        --do_eval
        --prediction_loss_only
        --num_train_epochs=1
        --use_cpu"""
    said = call(run_mlm, command, monkeypatch, capsys)
    folder = sample / "out"
    results = results_of(folder)
    assert results["perplexity"] < 42
    for name in ("eval_results.json", "train_results.json"):
        part = json.loads((folder / name).read_text())
        assert part.items() <= results.items()
    blocks = results["eval_samples"]
    assert results["train_samples"] == blocks and f"{blocks:,} blocks of 512" in said  # the same file twice
    assert "warning: --prediction_loss_only changes nothing" in said
    AutoModelForMaskedLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)

    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card and "pipeline_tag: fill-mask" in card
    assert f"| eval_loss | {results['eval_loss']:.4g} |" in card and "| peak learning rate | 5e-05 |" in card
    assert "](" not in card  # no link, so no dead one
    assert "is done: " in call(run_mlm, command, monkeypatch, capsys)
    assert results_of(folder) == results

    (folder / "README.md").write_text("mine")
    call(run_mlm, f"{command} --num_train_epochs 2 --allow_changed max_steps", monkeypatch, capsys)
    assert (folder / "README.md").read_text() == "mine"
