"""The calls of the example scripts' own tests, unchanged but for paths and models, and what those tests ask of them."""

import json

import pytest
from glue_toys import as_flags, toy_checkpoint
from qa_toys import paragraphs, with_negatives
from toy import config_settings
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import run_clm
import run_glue
import run_mlm
import run_qa
from recipe.finetune.model_card import MARK
from recipe.finetune.starting_point import progress_of


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
    assert "warning: --prediction_loss_only has no effect" in said
    AutoModelForMaskedLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)

    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card and "pipeline_tag: fill-mask" in card
    assert (
        f"| loss in nats per predicted token | {results['eval_loss']:.4g} |" in card
        and "| peak learning rate | 5e-05 |" in card
    )
    assert "](" not in card  # no link, so no dead one
    assert "is done: " in call(run_mlm, command, monkeypatch, capsys)
    assert results_of(folder) == results

    (folder / "README.md").write_text("mine")
    call(run_mlm, f"{command} --num_train_epochs 2 --allow_changed max_steps", monkeypatch, capsys)
    assert (folder / "README.md").read_text() == "mine"


# ---- fine-tuning

SPEED = ("_runtime", "_per_second", "total_flos", "epoch")


def fine_tuned(program, checkpoint, steps, monkeypatch, capsys, **files) -> None:
    """Makes `learned` a model that has learned the toy task: 10 steps of fresh weights teach nothing."""
    settings = {"model_name_or_path": checkpoint, "output_dir": "learned", "do_train": True, "learning_rate": 1e-2,
                "max_steps": steps, "per_device_train_batch_size": 8, "save_strategy": "no"} | files  # fmt: skip
    call(program, " ".join(as_flags(settings)), monkeypatch, capsys)


def write_mrpc(file, count):
    rows = [
        ("not_equivalent", f'He said ""no, {n}"" .', "A dog barks .")
        if n % 3 == 0
        else ("equivalent", f"The cat, {n}, sleeps .", f"Cat {n} sleeps .")
        for n in range(count)
    ]
    lines = [f'{label},"{first}","{second}"' for label, first, second in rows]
    file.write_text("\n".join(["label,sentence1,sentence2", *lines]) + "\n")


def test_run_glue(sample, monkeypatch, capsys):
    write_mrpc(sample / "train.csv", 30)
    write_mrpc(sample / "dev.csv", 6)
    checkpoint = toy_checkpoint(sample / "toy", 10, max_position_embeddings=130)
    fine_tuned(run_glue, checkpoint, 40, monkeypatch, capsys, train_file="train.csv")
    said = call(
        run_glue,
        """
            --model_name_or_path learned
            --output_dir out
            --overwrite_output_dir
            --train_file ./train.csv
            --validation_file ./dev.csv
            --do_train
            --do_eval
            --per_device_train_batch_size=2
            --per_device_eval_batch_size=1
            --learning_rate=1e-4
            --max_steps=10
            --warmup_steps=2
            --seed=42
            --max_seq_length=128
        """,
        monkeypatch,
        capsys,
    )
    result = results_of(sample / "out")
    assert result["eval_accuracy"] >= 0.75
    assert {name for name in result if not name.endswith(SPEED)} == {
        "eval_accuracy", "eval_loss", "eval_samples", "train_loss", "train_samples",
    }  # fmt: skip
    assert (result["train_samples"], result["eval_samples"]) == (30, 6)
    out = sample / "out"
    assert {path.name for path in out.iterdir()} == {
        "README.md", "all_results.json", "config.json", "eval_results.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "train.csv-seed42.json", "train_results.json", "trainer_state.json",
    }  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained("out")
    assert model.config.id2label == {0: "equivalent", 1: "not_equivalent"}
    ids = AutoTokenizer.from_pretrained("out")("He said no .", "A dog barks .", return_tensors="pt")
    assert model(**ids).logits.argmax().item() == 1
    card = (out / "README.md").read_text()
    assert MARK in card and "text-classification" in card and f"| accuracy | {result['eval_accuracy']:.4g}" in card
    assert str(sample) not in card  # a link into somebody's disk leads nowhere
    # Its steps are no pre-training steps: a table of checkpoints must not show them.
    assert json.loads((out / "train.csv-seed42.json").read_text())["checkpoint"]["step"] is None
    assert progress_of(out)[0] == 10
    assert "text: sentence1 and sentence2; label: label" in said and "train.csv: 30 train, 6 validation" in said
    (out / "README.md").write_text("mine")
    again = "--model_name_or_path learned --train_file train.csv --do_train --max_steps 1 --output_dir out"
    said = call(run_glue, again, monkeypatch, capsys)
    assert (out / "README.md").read_text() == "mine" and "no model card is written" in said
    # --do_eval with a validation file alone
    call(
        run_glue, "--model_name_or_path out --validation_file dev.csv --do_eval --output_dir alone", monkeypatch, capsys
    )
    result = results_of(sample / "alone")
    assert result["eval_accuracy"] >= 0.75 and not (sample / "alone" / "model.safetensors").exists()


def test_run_squad(sample, monkeypatch, capsys):
    made = with_negatives(paragraphs(4, sentences=6))
    rows = [
        {
            "id": number * 2 + place,
            "question": entry["question"],
            "context": paragraph["context"],
            "answers": {key: [answer[key] for answer in entry["answers"]] for key in ("text", "answer_start")},
        }
        for number, paragraph in enumerate(made)
        for place, entry in enumerate(paragraph["qas"])
    ]
    (sample / "sample.json").write_text(json.dumps({"version": 2.0, "data": rows}))
    checkpoint = toy_checkpoint(sample / "toy", 10, max_position_embeddings=386)
    negatives = {"train_file": "sample.json", "version_2_with_negative": True}
    fine_tuned(run_qa, checkpoint, 40, monkeypatch, capsys, **negatives)
    call(
        run_qa,
        """
            --model_name_or_path learned
            --version_2_with_negative
            --train_file sample.json
            --validation_file sample.json
            --output_dir out
            --overwrite_output_dir
            --max_steps=10
            --warmup_steps=2
            --do_train
            --do_eval
            --learning_rate=2e-4
            --per_device_train_batch_size=2
            --per_device_eval_batch_size=1
        """,
        monkeypatch,
        capsys,
    )
    result = results_of(sample / "out")
    assert result["eval_f1"] >= 30
    assert result["eval_exact"] >= 30
    assert (result["train_samples"], result["eval_samples"]) == (8, 8)
    assert {"eval_HasAns_exact", "eval_HasAns_f1", "eval_NoAns_exact", "eval_NoAns_f1", "eval_total"} <= set(result)
    model = AutoModelForQuestionAnswering.from_pretrained("out")
    assert model.config.architectures == ["RobertaForQuestionAnswering"] and AutoTokenizer.from_pretrained("out")
    assert MARK in (sample / "out" / "README.md").read_text()
    for name in ("predictions", "nbest_predictions", "null_odds"):
        assert set(json.loads((sample / "out" / f"eval_{name}.json").read_text())) == {str(n) for n in range(8)}
