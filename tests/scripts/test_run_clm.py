"""run_clm.py: causality, the loss against the dense reference, invariants 1, 5 and 6, and the files of a run."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import TOKENIZERS, flat_tokens, next_tokens_of
from toy_trainers import CHANGES, losses_and_norms, make_trainer, train_and_kill, weights_and_optimizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import run_clm
import run_mlm
from recipe.evaluate.continuation import continue_text
from recipe.finetune.glue.arguments import GlueArguments
from recipe.finetune.starting_point import config_of, tokenizer_of
from recipe.model.checkpoints import checkpoints
from recipe.model.config import is_causal, load_config, make_causal
from recipe.model.heads import use_next_token_head
from recipe.model.loading import build_model
from recipe.system.errors import UserError

FAMILIES = ["roberta", "bert", "modernbert"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family, request):
    return request.getfixturevalue(TOKENIZERS[family])


@pytest.fixture
def model(family, write_config):
    config = make_causal(load_config(str(write_config(family))), "toy")
    torch.manual_seed(0)
    return build_model(config)


def test_no_position_depends_on_later_ones(model, tokenizer, documents):
    """In the forward of the class and in the one for training, a token affects only its own and later positions."""
    batch = next_tokens_of(tokenizer, documents).__getitems__(range(2))
    model.eval()
    embeddings = model.base_model.embeddings.register_forward_hook(lambda _, args, output: output.requires_grad_())
    seen = []
    hook = model.base_model.embeddings.register_forward_hook(lambda _, args, output: seen.append(output))
    sparse = use_next_token_head(model)
    for position in (0, 7, 30, 31):
        labels = torch.full_like(batch["labels"], -100)
        labels[:, position] = batch["labels"][:, position]
        seen.clear()
        (gradient,) = torch.autograd.grad(sparse(batch["input_ids"], labels)["loss"], seen)
        nonzero = gradient.abs().sum(-1) > 0
        assert nonzero[:, : position + 1].all() and not nonzero[:, position + 1 :].any()
    embeddings.remove(), hook.remove()

    with torch.no_grad():
        before = type(model).forward(model, batch["input_ids"]).logits
        batch["input_ids"][:, 10] = 7
        after = type(model).forward(model, batch["input_ids"]).logits
    same = (before == after).all(-1)
    assert same[:, :10].all() and not same[:, 10:].any()


@pytest.mark.parametrize("which", ["full", "short"])
def test_the_loss_and_every_gradient_are_those_of_the_dense_reference(model, tokenizer, documents, which):
    data = next_tokens_of(tokenizer, documents, order_seed=None)
    numbers = range(4) if which == "full" else range(len(data) - 1, len(data))
    rows = torch.from_numpy(data.blocks.rows(data.block_ids(numbers)).astype(np.int64))
    labels = rows.masked_fill(rows == tokenizer.pad_token_id, -100)
    assert (labels == -100).any() == (which == "short")
    dense = copy.deepcopy(model)
    # The loss of transformers shifts the labels itself and ignores the logits of the last token.
    reference = dense(rows, labels=labels, use_cache=False).loss * (labels[:, 1:] != -100).sum()
    reference.backward()
    sparse = use_next_token_head(model)
    loss = sparse(**data.__getitems__(numbers))["loss"]
    loss.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=1e-4)
    for (name, p), (_, q) in zip(dense.named_parameters(), sparse.named_parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_every_token_is_predicted_once_per_epoch_from_those_before_it(tokenizer, documents):
    tokens, data = flat_tokens(tokenizer, documents), next_tokens_of(tokenizer, documents)
    seen = []
    for n in range(len(data)):
        batch = data[n]
        inputs, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        assert (len(inputs), len(labels)) == (32, 32) and inputs[0] == tokenizer.cls_token_id
        counted = [label for label in labels if label != -100]
        assert inputs[1 : len(counted)] == counted[:-1]
        seen.append((data.block_ids(range(n, n + 1))[0], counted))
    assert [label for _, labels in sorted(seen) for label in labels] == tokens.tolist()


def test_a_step_is_the_same_however_its_batch_is_split(tmp_path, bpe, documents):
    single = losses_and_norms(tmp_path / "a", bpe, documents, micro=32, causal=True)
    assert len(single) == 6 and single[0][0] == pytest.approx(math.log(320), abs=0.3)
    for micro, accumulation in ((8, 4), (4, 8)):
        cut = losses_and_norms(
            tmp_path / f"{micro}", bpe, documents, micro=micro, accumulation=accumulation, causal=True
        )
        assert cut == [pytest.approx(pair, abs=1e-5) for pair in single]


def test_the_first_loss_is_the_mean_over_the_tokens_of_the_step(tmp_path, bpe, documents):
    ((loss, _),) = losses_and_norms(tmp_path, bpe, documents, micro=8, accumulation=2, steps=1, causal=True)
    trainer = make_trainer(tmp_path / "b", bpe, documents, causal=True)
    batch = trainer.train_dataset.__getitems__(range(16))
    logits = type(trainer.model).forward(trainer.model, batch["input_ids"]).logits
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert loss == pytest.approx(mean.item(), abs=1e-5)


@pytest.mark.parametrize("more", [{}, CHANGES | {"optim": "muon"}])
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, bpe, documents, more):
    options = {"micro": 16, "accumulation": 2, "steps": 8, "dropout": 0.1, "causal": True, **more}
    make_trainer(tmp_path / "uninterrupted", bpe, documents, **options).train()
    train_and_kill(tmp_path / "killed", bpe, documents, (3, 7), **options)
    ends = [weights_and_optimizer(tmp_path / run / "checkpoint-8") for run in ("uninterrupted", "killed")]
    assert ends[0] == ends[1]


def test_a_run_leaves_a_plain_causal_model_that_generates_text(run, tmp_path, family):
    code, printed = run("--max_seq_length", None, "--block_size", "24", program=run_clm, family=family)
    assert code == 0
    folder = tmp_path / "run"
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
    assert 0 < results["eval_accuracy"] < 1
    assert (
        results["eval_unigram_accuracy"] < results["eval_unigram_loss"] < math.log(300)
    )  # end tokens of documents are predicted, too
    (prepared,) = (json.loads(file.read_text()) for file in (tmp_path / "data").glob("*/prepared.json"))
    assert results["eval_tokens"] == prepared["splits"]["validation"]["tokens"]  # each is predicted once
    assert "perplexity" in printed and printed.count(" |") == 3 and "unigram baseline" in printed
    assert ("position_ids that start at 2" in printed) == (family == "roberta")
    assert "blocks of 24" in printed and "accuracy" in printed and "masked accuracy" not in printed
    for checkpoint in (*checkpoints(folder), folder):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        classes = {"roberta": "RobertaForCausalLM", "bert": "BertLMHeadModel"}
        assert type(model).__name__ == classes.get(family, "ModernBertDecoderForCausalLM")
        assert is_causal(AutoConfig.from_pretrained(checkpoint))
    # Greedy decoding returns the most probable token at each position, with or without the key-value cache.
    ids = torch.tensor([tokenizer.cls_token_id, 9, 12, 30])
    generated = continue_text(model, tokenizer, ids, 8, seed=None)
    for token in generated:
        with torch.no_grad():
            assert token == model(ids[None]).logits[0, -1].argmax()
        ids = torch.cat([ids, token[None]])
    assert len(generated) and torch.equal(
        continue_text(model, tokenizer, ids, 4), continue_text(model, tokenizer, ids, 4)
    )
    assert "is done: 4 steps" in run("--max_seq_length", None, "--block_size", "24", program=run_clm, family=family)[1]


def test_masked_and_causal_share_prepared_tokens_and_do_not_evaluate_each_others_checkpoints(run, tmp_path):
    run("--output_dir", "masked")
    prepared = sorted(path.name for path in (tmp_path / "data").iterdir())
    run("--output_dir", "causal", program=run_clm)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == prepared
    model = ("--config_name", None, "--tokenizer_name", None, "--output_dir", "more", "--model_name_or_path")
    with pytest.raises(
        UserError, match=r"causal/checkpoint-4 is a causal model, expected a masked one: use run_clm.py"
    ):
        run(*model, "causal/checkpoint-4", do_train=False)
    with pytest.raises(
        UserError, match=r"masked/checkpoint-4 is a masked model, expected a causal one: use run_mlm.py"
    ):
        run(*model, "masked/checkpoint-4", program=run_clm, do_train=False)
    assert not (tmp_path / "more").exists()
    assert run(*model, "causal/checkpoint-4", program=run_clm)[0] == 0
    with pytest.raises(UserError, match="begun with objective clm, now it is mlm"):
        run("--output_dir", "causal")
    causal = GlueArguments(model_name_or_path="causal/checkpoint-4", task_name="rte")
    with pytest.raises(UserError, match="causal model, whose first token attends to no other"):
        config_of(causal, tokenizer_of(causal))


def test_a_checkpoint_of_one_objective_is_trained_further_by_the_other(run, tmp_path, family):
    """Its weights are taken as they are, the head's too; a token sees all of its block, or only what is before it."""
    run("--output_dir", "causal", program=run_clm, family=family)
    model = ("--config_name", None, "--tokenizer_name", None, "--model_name_or_path")
    still = ("--learning_rate", "1e-12", "--weight_decay", "0", "--max_steps", "1")
    found = {}
    for name, begun_from, program, seen in (
        ("masked", "causal/checkpoint-4", run_mlm, "all of its block"),
        ("again", "masked/checkpoint-1", run_clm, "those before it"),
    ):
        code, printed = run(*model, begun_from, *still, "--output_dir", name, program=program, family=family)
        assert code == 0 and f"{begun_from} is trained further as a " in printed and f"a token sees {seen}" in printed
        found[name] = tmp_path / name / "checkpoint-1"
    weights = {name: load_file(folder / "model.safetensors") for name, folder in found.items()}
    before = load_file(tmp_path / "causal" / "checkpoint-4" / "model.safetensors")
    if family == "modernbert":  # whose causal form has the same weights under other names
        assert before.keys() != weights["masked"].keys()
        sizes = [sum(map(torch.numel, of.values())) for of in (before, weights["masked"])]
        assert sizes[0] == sizes[1]
    for after in weights.values() if family != "modernbert" else [weights["again"]]:
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-6) for name in before)
    ids = torch.randint(10, 60, (1, 12), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 8] = 9
    for name, kind in (("masked", AutoModelForMaskedLM), ("again", AutoModelForCausalLM)):
        of_class = kind.from_pretrained(found[name]).eval()
        assert type(of_class).__name__ == of_class.config.architectures[0]
        with torch.no_grad():
            moved = (of_class(ids).logits != of_class(other).logits).any(-1)[0]
        assert moved[:8].any() == (name == "masked") and moved[8:].all()


def test_line_breaks_are_kept_or_become_spaces(run, tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text("the cat\nsat on\na mat\n\nseven dogs\nbarked\n\n" * 30)
    files = ("--train_file", str(tmp_path / "train.txt"), "--validation_file", str(tmp_path / "valid.txt"))
    texts = []
    for keep in ("true", "false"):
        run(*files, "--keep_linebreaks", keep, "--output_dir", keep, "--max_steps", "1", program=run_clm)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / keep)
        (folder,) = (path.parent for path in (tmp_path / "data").glob("*/train.npy") if path.parent.name not in texts)
        texts.append(folder.name)
        texts.append(tokenizer.decode(np.load(folder / "train.npy").tolist()))
    assert texts[1].startswith("the cat\nsat on\na mat</s>seven dogs\nbarked</s>")
    assert texts[3].startswith("the cat sat on a mat</s>seven dogs barked</s>")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--block_size", "4"), "block_size 4, expected at least 8"),
        (("--block_size", "65"), "positions for 64 tokens"),
        (("--config_name", None), "found no model"),
        (("--mlm_probability", "0.3"), "unknown flag --mlm_probability"),
        (("--short_seq_length", "12"), "short_seq_length 12 beside --max_seq_length 32"),
        (("--train_file", "none.txt"), "found no text at none.txt"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(run, tmp_path, argv, message):
    with pytest.raises(UserError, match=message):
        run(*argv, program=run_clm)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_family_without_a_causal_form_is_refused(run):
    with pytest.raises(
        UserError, match="is a distilbert model, which has no causal form: expected one of roberta, bert, modernbert"
    ):
        run(program=run_clm, family="distilbert")
