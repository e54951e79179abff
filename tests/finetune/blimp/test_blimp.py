"""recipe.finetune.blimp: scores of minimal pairs equal those of a plain forward pass, ties count half, nothing is
computed twice, and a sweep shows accuracies with standard errors."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from glue_toys import sweep_here, toy_run, toy_tokenizer
from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from toy import REPOSITORY, SHARED_DATA, config_settings, pretrain_command
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from recipe.data.tokenizer import block_ends, train_tokenizer
from recipe.finetune.blimp import evaluation
from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun
from recipe.finetune.blimp.evaluation import accuracy, prepare
from recipe.finetune.blimp.likelihoods import (
    PLAIN,
    WITHIN_WORD,
    Sentence,
    _masked_queries,
    encode,
    likelihoods,
    one_thread_per_core,
)
from recipe.finetune.blimp.pairs import read_pairs
from recipe.finetune.results import read_results
from recipe.finetune.suites import SUITES
from recipe.model.families import MASKED
from recipe.system.errors import UserError

PAIRS = [  # (paradigm, field, good, bad)
    ("agreement", "morphology", "the seven dogs bark at a mat", "the seven dogs barks at a mat"),
    ("agreement", "morphology", "the cat sits on a mat", "the cat sit on a mat"),
    ("order", "syntax", "a naive cat sat on the mat", "a naive cat sat the on mat"),
    ("order", "syntax", "it barked loudly while dogs sat", "it barked loudly dogs while sat"),
    ("order", "syntax", "dogs sat", "sat dogs"),
]


def write_pairs(folder: Path, pairs=PAIRS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(pair[0] for pair in pairs):
        rows = [{"sentence_good": good, "sentence_bad": bad, "UID": uid, "field": field, "linguistics_term": f"{uid}s"}
                for uid, field, good, bad in pairs if uid == name]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def model_of(family: str, causal: bool = False):
    torch.manual_seed(3)
    config = AutoConfig.for_model(**config_settings(family, 320, initializer_range=0.5))
    config.is_decoder = causal
    return (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config).eval()


def plain_log_probability(model, ids: list[int], place: int) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, place].double().log_softmax(-1)


# ---- scores


@pytest.mark.parametrize("within_word", [False, True])
@pytest.mark.parametrize("family", MASKED)
def test_a_pseudo_log_likelihood_is_that_of_one_forward_pass_per_token(family, within_word):
    tokenizer, model = toy_tokenizer(), model_of(family)
    texts = [text for pair in PAIRS for text in pair[2:]]
    sentences = encode(texts, tokenizer, 60)
    with one_thread_per_core() or pytest.MonkeyPatch.context() as threads:
        threads = threads if hasattr(threads, "map") else None
        found = likelihoods(model, tokenizer, sentences, 40, threads, within_word)
    for number, text in enumerate(texts):
        batch = tokenizer(text)
        ids, words = batch["input_ids"], batch.word_ids()
        expected = 0.0
        for place, word in enumerate(words):
            if word is None:
                continue
            hidden = [place, *(j for j in range(place + 1, len(ids)) if within_word and words[j] == word)]
            masked = [tokenizer.mask_token_id if j in hidden else token for j, token in enumerate(ids)]
            expected += plain_log_probability(model, masked, place)[ids[place]].item()
        assert found[WITHIN_WORD if within_word else PLAIN][number] == pytest.approx(expected, abs=2e-4)
    assert set(found) == ({PLAIN, WITHIN_WORD} if within_word else {PLAIN})


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_a_causal_model_scores_by_the_sum_of_its_log_probabilities(family):
    tokenizer, model = toy_tokenizer(), model_of(family, causal=True)
    texts = [text for pair in PAIRS for text in pair[2:]]
    found = likelihoods(model, tokenizer, encode(texts, tokenizer, 60), 30)
    assert set(found) == {PLAIN}
    for number, text in enumerate(texts):
        ids = [block_ends(tokenizer)[0], *tokenizer(text, add_special_tokens=False)["input_ids"]]
        parts = [plain_log_probability(model, ids[:end], -1)[ids[end]].item() for end in range(1, len(ids))]
        assert found[PLAIN][number] == pytest.approx(sum(parts), abs=2e-4)


def test_what_both_sentences_ask_for_is_computed_once():
    good, bad = (Sentence((0, 5, differs, 7, 2), (None, 0, 1, 2, None)) for differs in (6, 8))
    (asked,) = _masked_queries([good, bad, good], mask=4, within_word=False)
    rows = list(zip(asked.rows, asked.places, strict=True))
    assert len(set(rows)) == len(rows) == 5  # the word that differs is hidden by the same mask in both
    assert len(asked.wanted) == 9


# ---- accuracies


def test_a_tie_counts_half_and_a_constant_model_scores_exactly_half():
    found = accuracy(np.full(7, -3.25), np.full(7, -3.25))
    assert found.accuracy == 0.5 and found.stderr == 0.0
    found = accuracy(np.array([1.0, 2.0, 0.0, 5.0]), np.array([0.0, 2.0, 3.0, 4.0]))
    assert found.accuracy == 2.5 / 4 and found.stderr == pytest.approx(np.std([1, 0.5, 0, 1]) / 2)


def test_a_uniform_model_ties_every_pair_of_equal_length():
    tokenizer, model = toy_tokenizer(), model_of("roberta")
    decoder = model.get_output_embeddings()
    decoder.weight = torch.nn.Parameter(torch.zeros_like(decoder.weight))
    texts = [text for pair in PAIRS if pair[0] == "order" for text in pair[2:]]
    sentences = encode(texts, tokenizer, 60)
    scores = likelihoods(model, tokenizer, sentences, 1000)[PLAIN]
    same = [len(a.ids) == len(b.ids) for a, b in zip(sentences[::2], sentences[1::2], strict=True)]
    assert any(same) and accuracy(scores[::2][same], scores[1::2][same]).accuracy == 0.5


# ---- pairs


def test_pairs_are_grouped_and_a_limit_takes_as_many_of_each(tmp_path):
    pairs = read_pairs(str(write_pairs(tmp_path / "pairs")))
    assert [(p.name, p.field, p.phenomenon, len(p.good)) for p in pairs.paradigms] == [
        ("agreement", "morphology", "agreements", 2), ("order", "syntax", "orders", 3),
    ]  # fmt: skip
    limited = read_pairs(str(tmp_path / "pairs"), 2)
    assert [len(p.good) for p in limited.paradigms] == [1, 1] and (len(limited), limited.available) == (2, 5)
    table = "sentence_bad,sentence_good\nsat dogs,dogs sat\n"
    (tmp_path / "deutsch.csv").write_text(table)
    (own,) = read_pairs(str(tmp_path / "deutsch.csv")).paradigms
    assert (own.name, own.field, own.good, own.bad) == ("deutsch", "", ("dogs sat",), ("sat dogs",))


def test_mistakes_in_pairs_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found no file of pairs"):
        read_pairs(str(tmp_path / "empty"))
    (tmp_path / "a.jsonl").write_text('{"good": "x", "sentence_bad": "y"}\n')
    with pytest.raises(UserError, match="has the columns good, sentence_bad, expected sentence_good and sentence_bad"):
        read_pairs(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text(
        '{"sentence_good": "x", "sentence_bad": "y"}\n{"sentence_good": 3, "sentence_bad": "y"}\n'
    )
    with pytest.raises(UserError, match=r"b.jsonl, line 2: found 3 as sentence_good, expected a sentence"):
        read_pairs(str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="found no minimal pairs at"):
        read_pairs(str(tmp_path / "nothing" / "here"))
    with pytest.raises(UserError, match=r"found a sentence of .* tokens, expected at most 8"):
        encode(["the seven dogs barked loudly at the mat"], toy_tokenizer(), 8)


# ---- jobs


def job_of(tmp_path, **changes):
    run = toy_run(tmp_path / "toy", steps=(10,))
    data = BlimpArguments(
        model_name_or_path=str(run / "checkpoint-10"), blimp_data=str(write_pairs(tmp_path / "pairs")), **changes
    )
    return prepare(data, BlimpRun(output_dir=str(tmp_path / "out"), disable_tqdm=True))


def test_a_stopped_job_goes_on_after_the_last_paradigm_it_scored(tmp_path, monkeypatch):
    whole = job_of(tmp_path)
    expected = whole.evaluate()
    whole.write_predictions(tmp_path / "out")
    assert not (tmp_path / "out" / "paradigms").exists()
    calls, real = [], likelihoods

    def counted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(evaluation, "likelihoods", counted)
    with pytest.raises(KeyboardInterrupt):
        job_of(tmp_path).evaluate()
    assert job_of(tmp_path).evaluate() == expected and len(calls) == 3  # the first paradigm is not scored again
    job_of(tmp_path, max_eval_samples=2).evaluate()
    assert len(calls) == 5  # other pairs: nothing is taken from the folder


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path):
    run = toy_run(tmp_path / "toy", steps=(10,))
    words = {word: number for number, word in enumerate(("<s>", "<pad>", "</s>", "the", "cat"))}
    roles = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    maskless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="the")), **roles)
    maskless.save_pretrained(tmp_path / "maskless")
    data = BlimpArguments(model_name_or_path=f"random:{run}/checkpoint-10", tokenizer_name=str(tmp_path / "maskless"))
    with pytest.raises(UserError, match="has no mask token"):
        evaluation.check_model(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    command, settings = pretrain_command(folder, "run", MAX_STEPS=4, WARMUP_STEPS=1, SAVE_STEPS=2, EVAL_STEPS=4,
                                         NPROC_PER_NODE=1)  # fmt: skip
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, settings


@pytest.mark.timeout(300)
def test_the_launcher_scores_every_checkpoint_and_fresh_weights(trained):
    folder, settings = trained
    run, pairs = folder / "run", write_pairs(folder / "pairs", PAIRS[:4])
    done = subprocess.run(
        ["bash", str(REPOSITORY / "finetune_glue.sh")], capture_output=True, text=True,
        env=settings | {"RUN": f"{run} random:{run}", "TASKS": "blimp", "BLIMP_DATA": str(pairs), "REPORT_TO": "none",
                        "OUTPUT_DIR": "", "TOKENIZER": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = {record["checkpoint"]["name"]: record for record in read_results(run / "blimp")}
    assert set(records) == {"run/checkpoint-2", "run/checkpoint-4", "random:run"}
    metrics = records["run/checkpoint-4"]["metrics"]["validation"]
    assert metrics["unigram_accuracy"] == records["random:run"]["metrics"]["validation"]["unigram_accuracy"]
    assert metrics["accuracy"] == (metrics["accuracy_morphology"] + metrics["accuracy_syntax"]) / 2
    table = (run / "blimp" / "blimp.md").read_text()
    shown = f"{100 * metrics['accuracy']:.1f} ± {100 * metrics['accuracy_stderr']:.1f}"
    row = next(line for line in table.splitlines() if line.startswith("| run/checkpoint-4"))
    assert shown in row and "score ± standard error over the pairs" in table and "within-word" not in row
    assert (run / "blimp" / "blimp.png").read_bytes().startswith(b"\x89PNG")
    scores = np.load(run / "blimp" / "jobs" / "run-checkpoint-4" / "blimp-seed0" / "scores.npz")
    assert {name: scores[name].shape for name in scores} == {
        f"{score}/{paradigm}": (2, 2) for score in (PLAIN, "unigram_accuracy") for paradigm in ("agreement", "order")
    }
    assert "blimp" in (run / "checkpoint-4" / "README.md").read_text()
    # Two orders of the same tokens are a tie for the unigram model.
    assert (scores["unigram_accuracy/order"][0] == scores["unigram_accuracy/order"][1]).all()


@pytest.mark.timeout(300)
def test_run_blimp_writes_what_its_help_says(trained):
    folder, settings = trained
    argv = ["--model_name_or_path", str(folder / "run"), "--blimp_data", str(write_pairs(folder / "pairs")),
            "--output_dir", str(folder / "own"), "--within_word"]  # fmt: skip
    command = [sys.executable, str(REPOSITORY / "run_blimp.py")]
    done = subprocess.run([*command, *argv], capture_output=True, text=True, env=settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "own" / "all_results.json").read_text())
    assert 0 <= results["blimp_accuracy"] <= 1 and results["blimp_pairs"] == 5
    assert {"blimp_accuracy_stderr", "blimp_accuracy_syntax", "blimp_within_word_accuracy"} <= results.keys()
    rows = list(csv.DictReader((folder / "own" / "accuracies.csv").open()))
    assert [(row["level"], row["name"], row["pairs"]) for row in rows] == [
        ("all", "", "5"), ("field", "morphology", "2"), ("field", "syntax", "3"), ("phenomenon", "agreements", "2"),
        ("phenomenon", "orders", "3"), ("paradigm", "agreement", "2"), ("paradigm", "order", "3"),
    ]  # fmt: skip
    assert float(rows[0]["accuracy"]) == pytest.approx(results["blimp_accuracy"], abs=1e-6)
    wrong = subprocess.run(
        [*command, *argv[:2], "--output_dir", str(folder / "other"), "--blimp_data", str(folder / "none/here")],
        capture_output=True, text=True, env=settings, cwd=folder,
    )  # fmt: skip
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and not (folder / "other").exists()


def test_a_sweep_of_a_grid_or_of_seeds_is_refused(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "toy", steps=(10,))
    argv = ["--runs", str(run), "--tasks", "blimp", "--blimp_data", str(write_pairs(tmp_path / "pairs"))]
    with pytest.raises(UserError, match="BLiMP trains nothing"):
        sweep_here(monkeypatch)([*argv, "--seeds", "1", "2"])
    assert not SUITES["blimp"].trains


# ---- another implementation


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert", "causal"])
def test_scores_agree_with_minicons(kind, monkeypatch):
    """On 100 real pairs, by a model whose weights are random and large, so that its scores differ widely."""
    if importlib.util.find_spec("minicons") is None:
        pytest.skip("minicons is not installed: pip install minicons")
    if not (SHARED_DATA / "blimp").is_dir():
        pytest.skip("there are no BLiMP files in ../shared/data")
    from minicons import scorer

    pairs = read_pairs(str(SHARED_DATA / "blimp"), 100)
    texts = [text for p in pairs.paradigms for text in (*p.good, *p.bad)]
    tokenizer = train_tokenizer(lambda: iter(texts * 3), vocab_size=600)
    torch.manual_seed(5)
    causal, family = kind == "causal", "roberta" if kind == "causal" else kind
    config = AutoConfig.for_model(**config_settings(family, 640, initializer_range=0.3))
    config.is_decoder = causal
    model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config).eval()
    if causal:  # minicons writes the begin token into the text; the tokenizer must not add another one
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.bos_token = tokenizer.cls_token
    ours = likelihoods(model, tokenizer, encode(texts, tokenizer, 64), 1024, within_word=not causal)
    # minicons 0.3 calls a method that transformers 5 no longer has.
    monkeypatch.setattr(type(tokenizer), "batch_encode_plus", type(tokenizer).__call__, raising=False)
    options = {"device": "cpu", "tokenizer": tokenizer}
    add = {"reduction": lambda scores: scores.sum(0).item()}
    if causal:
        theirs = scorer.IncrementalLMScorer(model, **options)
        found = {PLAIN: theirs.sequence_score(texts, bos_token=True, bow_correction=False, **add)}
    else:
        theirs = scorer.MaskedLMScorer(model, **options)
        found = {
            PLAIN: theirs.sequence_score(texts, PLL_metric="original", **add),
            WITHIN_WORD: theirs.sequence_score(texts, PLL_metric="within_word_l2r", **add),
        }
    for name, scores in found.items():
        difference = np.abs(ours[name] - np.array(scores)).max()
        print(f"{kind} {name}: largest difference {difference:.1e} nats of {np.abs(scores).mean():.0f}")
        assert difference < 1e-4
