"""Every file that this project writes and reads back, damaged in a dozen ways: it is skipped, written again or refused in
one line with exit code 2; there is never a traceback, and a refusal leaves nothing new on disk.

    pytest -s tests/scripts/test_damaged_files.py       prints the number of forms of damage and the outcomes for each file
"""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from glue_toys import planned, record, toy_run, toy_tokenizer, write_glue
from toy_trainers import forge, make_trainer

from recipe.cli.program import run_script
from recipe.data.blocks import Blocks
from recipe.data.columnar import saved_dataset
from recipe.data.corpus import Corpus, Source
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import load_prepared
from recipe.data.tokenizer import load_tokenizer
from recipe.finetune.examples import tokenise
from recipe.finetune.glue.arguments import GlueArguments
from recipe.finetune.glue.rows import Rows
from recipe.finetune.results import read_result, read_results, result_file
from recipe.finetune.starting_point import config_of, progress_of
from recipe.finetune.suites import SUITES
from recipe.model.checkpoints import STATE, commit, require_disk_space, rotate
from recipe.model.config import load_config
from recipe.model.loading import load_model
from recipe.report.card import write_cards
from recipe.report.page import ReportArguments, read_log, report_of, scores_of
from recipe.report.score_frames import cells_of, read_frame, rows_of
from recipe.report.scores import rebuild
from recipe.report.table import table_of
from recipe.report.wandb_scores import pretraining_id
from recipe.sweep.jobs import resumable_checkpoint
from recipe.sweep.sweep import training_is_over
from recipe.system.errors import UserError
from recipe.system.files import read_json, write_json
from recipe.system.manifest import MANIFEST
from recipe.train.callbacks import JsonLog
from recipe.train.resume import newest_evaluable, newest_resumable
from recipe.train.run_folder import run_lock
from recipe.train.run_record import read_record, record_run
from recipe.train.schedules import time_is_up

FORMS = {
    "empty": b"",
    "one byte": b"\x93",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"3",
    "a truth value": b"true",
    "a text": b'"text"',
    "wrong types inside": None,
    "nested too deeply": b"[" * 100_000,
    "cut in the middle": None,
    "not UTF-8": b'{"step": 1, "loss": 3.0, "note": "\xff\xfe\x80"}',
    "a folder": None,
    "a link to itself": None,
}
SKIPPED, REFUSED = "skipped or written again", "refused in one line"
TRIED: dict[str, Counter] = {}


@pytest.fixture
def no_pictures(no_curve, monkeypatch):
    """Drawing takes a second per picture."""
    monkeypatch.setattr("recipe.report.page.pictures_of", lambda log: [])


def put(form, file, good):
    """Replaces `file`, whose content was `good`, by a form of damage."""
    restore(file, None)
    if form == "a folder":
        file.mkdir()
    elif form == "a link to itself":
        file.symlink_to(file)
    elif form == "cut in the middle":
        file.write_bytes(good[: len(good) // 2])
    elif form == "wrong types inside":
        file.write_bytes(other_types(good))
    else:
        file.write_bytes(FORMS[form])


def restore(file, good):
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    if good is not None:
        file.write_bytes(good)


def other_types(good):
    """JSON whose values, at the first and second level, have other types; for other files, the bytes in reverse order."""

    def other(value):
        return [] if isinstance(value, int | float | str | None) else 3

    try:
        content = json.loads(good)
        inner = {k: {n: other(v) for n, v in value.items()} for k, value in content.items() if isinstance(value, dict)}
        return json.dumps({k: inner.get(k) or other(value) for k, value in content.items()}).encode()
    except (ValueError, AttributeError):
        return good[::-1]


def try_all(name, file, read, capsys, expected=(SKIPPED, REFUSED), after=lambda form: None):
    """Runs `read()` as a program with each form of damage in place of `file`."""
    good, found = file.read_bytes(), Counter()
    for form in FORMS:
        put(form, file, good)
        after(form)
        root = file.parent.parent
        before = {path for path in root.rglob("*") if path.suffix != ".lock"}
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_script(read)
        lines = capsys.readouterr().err.splitlines()
        outcome = {0: SKIPPED, 2: REFUSED}.get(ended.value.code)
        assert outcome in expected, (name, form, lines)
        if outcome == REFUSED:
            assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) > 30, (name, form, lines)
            assert {path for path in root.rglob("*") if path.suffix != ".lock"} == before, (name, form)
        assert not any("Traceback" in line for line in lines), (name, form, lines)
        found[outcome] += 1
        restore(file, good)
        after(form)
    TRIED[name] = found


@pytest.fixture(scope="module")
def trained(bpe, documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, bpe, documents)
    trainer.train()
    return folder, trainer


@pytest.mark.parametrize(
    "name", [MANIFEST, STATE, "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"]
)
def test_a_damaged_checkpoint_is_skipped(trained, tmp_path, capsys, name):
    run, trainer = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    newest = run / "checkpoint-6"

    def read():
        warnings = []
        assert newest_resumable(run, trainer.model, False, warnings.append) == run / "checkpoint-4"
        assert len(warnings) == 1 and "\n" not in warnings[0]
        assert newest_evaluable(run, trainer.model, warnings.append) in (newest, run / "checkpoint-4")
        assert progress_of(newest)[0] in (6, None) or name == STATE
        time_is_up(newest, 1.0)

    # The manifest is written again, so that the damage isn't detected by its checksums.
    try_all(name, newest / name, read, capsys, (SKIPPED,), lambda form: name == MANIFEST or forge(newest))


@pytest.mark.parametrize("what", ["a link to itself", "a file", "a link to a folder", "a folder"])
def test_anything_at_the_path_of_a_checkpoint_or_the_staging_folder_is_replaced(tmp_path, what):
    run, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    (other / "kept").write_text("kept")
    for number in range(2):
        for path in (run / "checkpoint-20", run / "_staging", run / "checkpoint-10"):
            path.parent.mkdir(exist_ok=True)
            restore(path, None)
            if what == "a file":
                path.write_text("obstacle")
            elif what == "a folder":
                path.mkdir()
                (path / "stray").write_text("obstacle")
            else:
                path.symlink_to(path if what == "a link to itself" else other)
        with run_lock(run):
            staged = run / "_staging" / "checkpoint-20"
            staged.mkdir(parents=True)
            (staged / "model.safetensors").write_text(f"weights {number}")
            commit(staged, run / "checkpoint-20")
            rotate(run, 1, newest=run / "checkpoint-20")
        assert (run / "checkpoint-20" / "model.safetensors").read_text() == f"weights {number}"
        assert not (run / "checkpoint-20").is_symlink() and (other / "kept").read_text() == "kept"


SIGNATURE = {"learning_rate": 1e-3, "max_steps": 20, "global_batch_size": 4, "max_seq_length": 16, "model": {}}


def test_a_damaged_run_json_is_refused_by_training_and_ignored_by_reports(tmp_path, capsys, no_pictures):
    run = toy_run(tmp_path / "runs" / "toy")
    (run / "run.json").unlink()
    record_run(run, SIGNATURE, {})
    (run / "log.jsonl").write_text('{"step": 1, "loss": 3.0, "learning_rate": 0.1}\n')
    try_all("run.json", run / "run.json", lambda: record_run(run, SIGNATURE, {}) and None, capsys, (REFUSED,))

    def show():
        assert read_record(run) == {}
        training_is_over([str(run)])
        assert progress_of(run / "checkpoint-10") == (10, 640)
        assert pretraining_id(run)
        report_of([run], ReportArguments(max_checkpoints=0))

    try_all("run.json, in a report", run / "run.json", show, capsys, (SKIPPED,))


def test_the_valid_lines_of_a_damaged_log_are_read(tmp_path, capsys, no_pictures):
    run = toy_run(tmp_path / "runs" / "toy")
    log = run / "log.jsonl"
    log.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": [1]}\n{"step": Infinity}\n{"step": 3, "loss": 2.0}\n')

    class State:
        is_world_process_zero, global_step = True, 2

    def resume():
        require_disk_space(run)
        JsonLog(log).on_train_begin(None, State, None)

    def show():
        report_of([run], ReportArguments(max_checkpoints=0))

    try_all("log.jsonl", log, resume, capsys)
    try_all("log.jsonl, in a report", log, show, capsys)
    log.write_bytes(b'{"step": 1, "loss": 3.0}\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": 2, "loss": 2.0}\n')
    assert read_log(log)["loss"].tolist() == [3.0, 2.0]
    resume()
    assert log.read_text() == '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n'


PREPARED_FILES = ("prepared.json", "checksums.json", "unigram.npy", "train.npy", "validation.npy", "train.crc32.npy")


@pytest.fixture(scope="module")
def corpus(documents):
    return Corpus("toy", Source("train", {}, lambda: iter(documents)), Source("v", {}, lambda: iter(documents[:9])))


@pytest.mark.parametrize("name", PREPARED_FILES)
def test_damaged_prepared_tokens_are_refused(bpe, corpus, tmp_path, capsys, name):
    folder = prepare_tokens(corpus, bpe, tmp_path / "data").folder

    def read():
        prepared = load_prepared(folder, bpe)
        for split in ("train", "validation"):
            blocks = Blocks(prepared.checked(split), 32, (0, 2), 1)
            blocks.rows(np.arange(len(blocks)))

    try_all(name, folder / name, read, capsys, (REFUSED,))
    read()


def test_ids_beyond_the_vocabulary_are_refused_with_and_without_checksums(bpe, corpus, tmp_path):
    folder = prepare_tokens(corpus, bpe, tmp_path / "data").folder
    good = np.load(folder / "train.npy")
    np.save(folder / "train.npy", np.where(np.arange(len(good)) == 70, len(bpe), good).astype(np.uint16))
    blocks = Blocks(load_prepared(folder, bpe).checked("train"), 32, (0, 2), 1)
    with pytest.raises(UserError, match=r"train\.npy is damaged"):
        blocks.rows(np.arange(len(blocks)))
    for name in ("checksums.json", "train.crc32.npy", "validation.crc32.npy"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=rf"train\.npy holds the id {len(bpe)}, its tokenizer has {len(bpe)} tokens"):
        load_prepared(folder, bpe)


def test_a_preparation_with_a_damaged_progress_file_starts_again(bpe, documents, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recipe.data.preparation.SECONDS_BETWEEN_PROGRESS", -1)
    monkeypatch.setattr("recipe.data.preparation.BATCH_DOCUMENTS", 20)
    texts = documents[:60]

    class Killed(BaseException):
        pass

    def stream(until=60):
        yield from texts[:until]
        if until < 60:
            raise Killed

    validation = Source("validation", {}, lambda: iter(documents[:3]))

    def of(until):
        return Corpus("toy", Source("train", {}, lambda: stream(until)), validation)

    uninterrupted = prepare_tokens(of(60), bpe, tmp_path / "uninterrupted")
    data = tmp_path / "data"

    def interrupted():
        shutil.rmtree(data, ignore_errors=True)
        with pytest.raises(Killed):
            prepare_tokens(of(50), bpe, data)
        return next(data.glob("*.partial")) / "progress.json"

    for form in FORMS:
        progress = interrupted()
        put(form, progress, progress.read_bytes())
        assert prepare_tokens(of(60), bpe, data).splits == uninterrupted.splits, form
        TRIED.setdefault("progress.json", Counter())[SKIPPED] += 1


def test_a_damaged_result_is_ignored_and_its_job_runs_again(tmp_path, capsys, no_pictures):
    run = toy_run(tmp_path / "toy")
    flags = ["--runs", str(run), "--tasks", "cola", "--seeds", "1", "2", "--glue_data"]
    glue = write_glue(tmp_path / "glue", rows=4, dev=4)
    jobs = planned([*flags, str(glue), "--use_cpu", "true", "--max_seq_length", "16"])
    for job in jobs:
        made = record(job.task, job.seed, step=10)
        made["checkpoint"] |= {"name": job.checkpoint, "sha256": job.sha256, "path": str(run / "checkpoint-10")}
        write_json(job.result, made)
    assert all(job.is_done() for job in jobs)
    damaged = jobs[1]

    def read():
        assert not damaged.is_done() and jobs[0].is_done()
        assert len(found := read_results(run / "glue")) == len(jobs) - 1
        assert "CoLA" in table_of(rows_of(found)) and scores_of([run], SUITES["glue"])[0].table is not None

    try_all("a job's JSON", damaged.result, read, capsys, (SKIPPED,))
    for content in ('{"headline": 3, "metrics": {}}', '{"metrics": {"validation": {}}}'):
        damaged.result.write_text(content)
        read()
        assert "CoLA" in rebuild(run / "glue")
        assert "is not the record of a fine-tuning: left out; run the sweep again" in capsys.readouterr().err
    good = record("cola", 2)
    for key, value in good.items():  # each of its fields alone
        for other in (None, 3, True, "text", [], {}, {"a": "b"}):
            if type(other) is type(value) and not isinstance(value, dict):
                continue
            write_json(damaged.result, good | {key: other})
            try:
                found = read_result(damaged.result)
            except ValueError:
                continue
            if found is not None:
                rows_of([found])  # a record that is accepted can be shown


def test_damaged_files_of_a_sweep_other_than_results(tmp_path, capsys, monkeypatch):
    run = toy_run(tmp_path / "toy")
    glue = write_glue(tmp_path / "glue", rows=4, dev=4)
    (job,) = planned(["--runs", str(run / "checkpoint-10"), "--tasks", "cola", "--glue_data", str(glue),
                      "--use_cpu", "true", "--max_seq_length", "16"])  # fmt: skip
    file = job.work / "job.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")

    def resume():
        (job.work / "stray").touch()
        assert resumable_checkpoint(job, None) is None and not (job.work / "stray").exists()

    try_all("job.json", file, resume, capsys, (SKIPPED,))
    job.error.write_text("why\n")
    try_all("a job's error", job.error, lambda: job.failed_since(0) and None, capsys, (SKIPPED,))
    curve = run / "glue" / ".wandb-curve.json"
    write_json(curve, {"toy/checkpoint-10": {"glue/cola": 1.0}})
    try_all("W&B's curve", curve, lambda: assert_object(read_json(curve)), capsys, (SKIPPED,))


def assert_object(content):
    assert content is None or isinstance(content, dict)


def test_a_damaged_table_or_model_card(tmp_path, capsys, no_pictures):
    run = toy_run(tmp_path / "runs" / "toy")
    for seed in (1, 2):
        made = record("cola", seed)
        made["checkpoint"]["path"] = str(run / "checkpoint-10")
        write_json(result_file(run / "glue" / "jobs" / "x", "cola", seed), made)
    rebuild(run / "glue")
    frame = rows_of(read_results(run / "glue"))
    shutil.rmtree(run / "glue" / "jobs")
    try_all("glue.csv", run / "glue" / "glue.csv", lambda: read_and_show(run), capsys)
    card = run / "checkpoint-10" / "README.md"
    tables = {"glue": "- a note"}
    try_all("README.md", card, lambda: write_cards(frame, cells_of(frame), tables) and None, capsys, (SKIPPED,))
    state = run / "checkpoint-10" / STATE
    card.unlink(missing_ok=True)
    try_all(
        f"{STATE}, in a report", state, lambda: write_cards(frame, cells_of(frame), tables) and None, capsys, (SKIPPED,)
    )


def read_and_show(run):
    frame = read_frame(run / "glue", SUITES["glue"])
    if frame is not None:
        cells_of(frame)


def test_damaged_cached_examples_are_computed_again(tmp_path, capsys):
    rows = Rows((["a cat sees", "a dog hears a bird"],), [0, 1], "toys")
    first = tokenise(rows, toy_tokenizer(), 16, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.safetensors")

    def read():
        again = tokenise(rows, toy_tokenizer(), 16, tmp_path / "cache")
        assert all(np.array_equal(first[name], again[name]) for name in first)

    try_all("cached examples", file, read, capsys, (SKIPPED,))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_damaged_model_is_refused(tmp_path, capsys, name, manifest):
    model = toy_run(tmp_path / "toy", steps=(10,)) / "checkpoint-10"
    if not manifest:
        model = model.rename(model.with_name("model"))
        (model / MANIFEST).unlink()

    def read():
        load_tokenizer(str(model))
        load_model(str(model), load_config(str(model)))
        config_of(GlueArguments(model_name_or_path=str(model), task_name="cola", max_seq_length=16), toy_tokenizer())

    read()
    label = f"{name}, {'with' if manifest else 'without'} manifest"
    expected = (SKIPPED, REFUSED) if name == "tokenizer_config.json" else (REFUSED,)
    try_all(label, model / name, read, capsys, expected)


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json"])
def test_a_damaged_saved_dataset(tmp_path, capsys, name):
    folder = tmp_path / "saved"
    (folder / "train").mkdir(parents=True)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "train" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    assert saved_dataset(folder)
    try_all(name, folder / name, lambda: saved_dataset(folder) and None, capsys)


def test_damaged_metrics_of_a_run_are_written_again(trained, tmp_path, capsys):
    run, trainer = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    trainer.args.output_dir = str(run)
    trainer.save_metrics("eval", {"eval_loss": 1.0})

    def write():
        require_disk_space(run)
        trainer.save_metrics("train", {"train_loss": 2.0})
        assert json.loads((run / "all_results.json").read_text())["train_loss"] == 2.0

    try_all("all_results.json", run / "all_results.json", write, capsys)


def test_every_form_of_damage_was_tried_on_every_file():
    """Counts the damage that the tests before it have tried; on its own it has nothing to count."""
    for name, found in TRIED.items():
        assert sum(found.values()) == len(FORMS), name
    print(f"\n{sum(map(Counter.total, TRIED.values()))} damaged files of {len(TRIED)} kinds, no traceback:")
    for name, found in TRIED.items():
        print(f"  {name:38} {', '.join(f'{count} {outcome}' for outcome, count in found.items())}")
