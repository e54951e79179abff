"""recipe.sweep, recipe.sweep.plan, recipe.sweep.jobs, recipe.sweep.executors: every job once, whatever stops, fails or runs beside it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from glue_toys import planned, prepare_by, sweep_here, toy_checkpoint, toy_run, write_glue, write_tsv
from toy import REPOSITORY, until

from recipe.finetune.results import read_results
from recipe.finetune.suites import SUITES
from recipe.sweep import jobs, sweep
from recipe.sweep.executors import Processes, visible_devices
from recipe.sweep.jobs import BUSY, DONE, FAILED, fail, resumable_checkpoint, run_job
from recipe.sweep.plan import candidates, is_awaited, parse_sweep, shared_settings
from recipe.sweep.sweep import training_is_over
from recipe.system.errors import UserError


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"), rows=16, dev=8)


@pytest.fixture
def run(tmp_path):
    return toy_run(tmp_path / "toy", steps=(10, 20))


@pytest.fixture
def flags(glue, run, tmp_path):
    def make(*more, tasks="rte cola", seeds="1 2", runs=None):
        return [
            "--runs", *map(str, runs or [run]), "--tasks", *tasks.split(), "--seeds", *seeds.split(),
            "--glue_data", str(glue), "--prepared_dir", str(tmp_path / "prepared"), "--max_seq_length", "48",
            "--num_train_epochs", "1", "--use_cpu", "true", *more,
        ]  # fmt: skip

    return make


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
    """Drawing takes a second; test_scores.py looks at it, and the first test here that there is one."""
    if request.node.name != "test_every_job_once_and_everything_that_shows_it":
        monkeypatch.setattr("recipe.report.scores.draw", lambda *_, **__: None)


@pytest.fixture
def do(monkeypatch):
    return sweep_here(monkeypatch)


def scores_of(folder):
    """What a sweep found out, without what differs from one time to the next."""
    records = read_results(folder)
    return {(r["checkpoint"]["name"], r["task"], r["seed"], r["variant"]): r["metrics"] for r in records}


def test_every_job_once_and_everything_that_shows_it(do, flags, run, capsys):
    assert do(flags())[0] == 0
    folder = run / "glue"
    assert len(scores_of(folder)) == 2 * 2 * 2
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "glue.csv", "glue.md", "glue.png", "jobs", "run.json",
    }  # fmt: skip
    assert (run / "checkpoint-20" / "README.md").exists()
    assert "toy/checkpoint-10" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*-seed*.json")}
    code, engine = do(flags())
    assert (code, engine.order) == (0, [])
    code, engine = do(flags(seeds="1 2 3"))
    assert (code, sorted(engine.order)) == (0, [("cola", 3), ("cola", 3), ("rte", 3), ("rte", 3)])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_job_s_command_gives_its_result(do, flags, run, monkeypatch, tmp_path):
    import run_glue

    do(flags(tasks="rte", seeds="7"))
    record = read_results(run / "glue")[0]
    again = [
        str(tmp_path / "again") if part == str(run / "glue" / "jobs" / "toy-checkpoint-10") else part
        for part in record["command"]
    ]
    monkeypatch.setattr(sys, "argv", again)
    run_glue.main()
    assert json.loads((tmp_path / "again" / "rte-seed7.json").read_text())["metrics"] == record["metrics"]


def test_a_sweep_keeps_scores_and_no_models(do, flags, run):
    with pytest.raises(UserError, match=r"found --save_model: a sweep keeps scores, .* use run_glue.py for a model"):
        do(flags("--save_model", "true"))
    do(flags(tasks="rte", seeds="1"))
    kept = {path.name for path in (run / "glue" / "jobs").rglob("*") if path.is_file()}
    assert {name for name in kept if not name.startswith(".")} == {"rte-seed1.json", "outcomes.npz"}


def test_a_failing_job_stops_no_other(do, flags, run, monkeypatch, capsys):
    real = SUITES["glue"].prepare

    def breaks(data, args):
        if (data.task_name, args.seed, data.checkpoint_name) == ("cola", 2, "toy/checkpoint-10"):
            raise RuntimeError("the device burned down")
        return real(data, args)

    prepare_by(breaks, "glue", monkeypatch)
    assert do(flags())[0] == 1
    assert len(scores_of(run / "glue")) == 7
    (error,) = (run / "glue").rglob("*.error.txt")
    assert error.name == "cola-seed2.error.txt" and "Traceback" in error.read_text()
    said = capsys.readouterr()
    assert "failed: toy/checkpoint-10 cola seed 2: RuntimeError: the device burned down" in said.err
    prepare_by(real, "glue", monkeypatch)
    code, engine = do(flags())
    assert (code, engine.order) == (0, [("cola", 2)])  # the next sweep tries it again
    assert not list((run / "glue").rglob("*.error.txt"))


def test_two_sweeps_share_the_jobs(flags):
    """Job by job: one that another process holds is left alone, then found done; a failure isn't repeated."""
    job = planned(flags(tasks="rte", seeds="1"))[0]
    since = time.time()
    job.result.parent.mkdir(parents=True)
    with FileLock(job.result.with_name(f".{job.result.stem}.lock")):
        assert run_job(job, since).state == BUSY
    assert run_job(job, since).state == DONE
    assert run_job(job, since).message == "done before"
    other = planned(flags(tasks="rte", seeds="2"))[0]
    fail(other, "one\ntwo")
    assert (run_job(other, since - 1).state, run_job(other, since - 1).message) == (FAILED, "two")
    assert run_job(other, time.time() + 1).state == DONE


def test_a_job_that_another_sweep_does_is_waited_for(do, flags, run, monkeypatch):
    monkeypatch.setattr(sweep, "BUSY_SECONDS", 0.1)
    first = planned(flags())[0]
    first.result.parent.mkdir(parents=True)
    lock = FileLock(first.result.with_name(f".{first.result.stem}.lock"), thread_local=False)
    lock.acquire()
    threading.Timer(1.0, lock.release).start()
    code, engine = do(flags())
    assert code == 0 and len(scores_of(run / "glue")) == 8
    assert engine.order.count((first.task, first.seed)) > 2  # two checkpoints, and at least one vain attempt


def test_results_of_other_weights_do_not_count(do, flags, run):
    do(flags(tasks="rte", seeds="1"))
    import shutil

    shutil.rmtree(run / "checkpoint-20")
    toy_checkpoint(run, 20, hidden_act="relu")
    model = run / "checkpoint-20" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    weights = {name: value + 0.01 for name, value in load_file(model).items()}
    save_file(weights, model, metadata={"format": "pt"})
    (run / "checkpoint-20").rename(run / "_staged")
    from recipe.model.checkpoints import commit

    commit(run / "_staged", run / "checkpoint-20")
    code, engine = do(flags(tasks="rte", seeds="1"))
    assert (code, engine.order) == (0, [("rte", 1)])


def test_other_settings_need_another_folder(do, flags, tmp_path):
    do(flags(tasks="rte", seeds="1"))
    with pytest.raises(UserError, match="was begun with max_train_samples null, now it is 8: use the former, another"):
        do(flags("--max_train_samples", "8", tasks="rte", seeds="1"))
    assert do(flags("--max_train_samples", "8", "--results_dir", str(tmp_path / "other"), tasks="rte"))[0] == 0


def test_small_tasks_start_from_the_mnli_model(do, flags, run):
    code, engine = do(flags("--mnli_init", "true", tasks="rte stsb cola", seeds="1"))
    assert code == 0
    assert [task for task, _ in engine.order].index("mnli") < [task for task, _ in engine.order].index("rte")
    started = {(r["checkpoint"]["step"], r["task"]): r["started_from_mnli"] for r in read_results(run / "glue")}
    assert started[10, "cola"] is None and started[10, "mnli"] is None
    for step in (10, 20):
        model = str(run / "glue" / "jobs" / f"toy-checkpoint-{step}" / "mnli-seed1.model")
        assert started[step, "rte"] == started[step, "stsb"] == model
    assert (
        "Started from the MNLI model of the same checkpoint and seed: rte, stsb." in (run / "glue/glue.md").read_text()
    )


def test_each_seed_starts_from_the_mnli_model_of_its_own(flags):
    jobs = planned(flags("--mnli_init", "true", tasks="mnli rte", seeds="1 2"))
    followers = [job for job in jobs if job.needs]
    assert len(followers) == 4  # of two checkpoints
    assert all((job.needs.seed, job.needs.checkpoint) == (job.seed, job.checkpoint) for job in followers)


def test_what_was_begun_with_other_settings_is_not_gone_on_with(flags):
    job, model = planned(flags(tasks="rte", seeds="1"))[0], None
    left = job.work / "checkpoint-1"
    assert resumable_checkpoint(job, model) is None  # and notes the settings
    left.mkdir()
    assert resumable_checkpoint(job, model) is None and left.exists()
    other = replace(job, argv=(*job.argv, "--learning_rate", "0.5"))
    assert resumable_checkpoint(other, model) is None and not left.exists()


def test_without_the_mnli_model_its_followers_fail_and_others_go_on(do, flags, run, monkeypatch):
    real = SUITES["glue"].prepare
    prepare_by(lambda d, a: 1 / 0 if d.task_name == "mnli" else real(d, a), "glue", monkeypatch)
    code, _ = do(flags("--mnli_init", "true", tasks="rte cola", seeds="1"))
    assert code == 1 and {record["task"] for record in read_results(run / "glue")} == {"cola"}
    errors = {path.name: path.read_text() for path in (run / "glue/jobs/toy-checkpoint-10").glob("*.error.txt")}
    assert "the MNLI job that it starts from failed" in errors["rte-seed1.error.txt"]


def test_a_grid_shows_the_best_on_dev_and_says_so(do, flags, run):
    code, engine = do(flags("--learning_rates", "1e-4", "1e-2", "--batch_sizes", "4", "8", tasks="rte", seeds="1"))
    assert code == 0 and len(engine.order) == 2 * 4
    table = (run / "glue" / "glue.md").read_text()
    assert "best on dev of a grid of 4, so these scores flatter: toy/checkpoint-10 rte: learning_rate" in table
    records = read_results(run / "glue")
    assert {r["settings"]["per_device_train_batch_size"] for r in records} == {4, 8}
    assert {r["settings"]["learning_rate"] for r in records} == {1e-4, 1e-2}


def test_random_beside_checkpoints_takes_their_tokenizer(do, flags, run, tmp_path):
    config = tmp_path / "small.json"
    config.write_text(json.dumps({"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 1,
                                  "num_attention_heads": 2, "intermediate_size": 16,
                                  "max_position_embeddings": 66}))  # fmt: skip
    assert do(flags(tasks="rte", seeds="1", runs=[run, f"random:{config}"]))[0] == 0
    rows = (run / "glue" / "glue.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in rows[2:5]] == [
        "random:small",
        "toy/checkpoint-10",
        "toy/checkpoint-20",
    ]
    with pytest.raises(UserError, match="has no tokenizer: pass --tokenizer_name"):
        do(flags(runs=[f"random:{config}"]))


def test_damaged_checkpoints_are_left_out_and_said(do, flags, run, capsys):
    (run / "checkpoint-20" / "model.safetensors").write_bytes(b"x")
    assert do(flags(tasks="rte", seeds="1"))[0] == 1
    assert "checkpoint-20 is damaged or incomplete (model.safetensors has 1 bytes" in capsys.readouterr().err
    assert {record["checkpoint"]["step"] for record in read_results(run / "glue")} == {10}
    with pytest.raises(UserError, match="is damaged or incomplete"):
        do(flags(runs=[run / "checkpoint-20"]))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runs", "/nowhere"], "found no folder /nowhere"),
        (["--runs", "random:configs/none.json"], "found no model config at configs/none.json"),
        ([], "found no RUN"),
        (["--tasks", "rte", "sst3"], "unknown task 'sst3', expected one of cola, sst2"),
        (["--tasks", "ax"], "AX has only a test file"),
        (["--engine", "slurm"], "found ENGINE slurm, expected processes or ray"),
        (["--workers", "0"], "found --workers 0, expected at least 1"),
        (["--seeds", "one"], "invalid int value: 'one'"),
        (["--report_to", "paper"], "expected none or wandb"),
        (["--num_train_epoch", "1"], "unknown flag --num_train_epoch: did you mean --num_train_epochs"),
        (["--glue_data", "/nowhere"], "found no folder /nowhere"),
        (["--max_seq_length", "100"], "has positions for 64"),
    ],
)
def test_mistakes_come_before_any_job(do, flags, run, argv, message):
    given = argv if argv[:1] == ["--runs"] or not argv else [*flags(), *argv]
    with pytest.raises(UserError, match=message) as error:
        do(given)
    assert "\n" not in str(error.value) and not (run / "glue" / "jobs").exists()


def test_a_bad_line_is_found_before_any_job(do, flags, run, glue, tmp_path):
    write_tsv(tmp_path / "bad" / "RTE" / "train.tsv", "index sentence1 sentence2 label", [["0", "a", "b"]])
    with pytest.raises(UserError, match=r"train.tsv, line 2: found 3 columns, expected 4"):
        do(flags("--glue_data", str(tmp_path / "bad"), tasks="rte"))


@pytest.mark.skipif(__import__("importlib.util").util.find_spec("ray") is not None, reason="ray is installed")
def test_ray_that_is_not_installed(do, flags):
    with pytest.raises(UserError, match=r"ray is not installed: pip install 'ray\[train,default\]"):
        do(flags("--engine", "ray"))


def test_two_models_of_one_name(tmp_path):
    for place in ("a", "b"):
        toy_run(tmp_path / place / "toy", steps=(10,))
    with pytest.raises(UserError, match="would both be called toy/checkpoint-10"):
        candidates([str(tmp_path / "a" / "toy"), str(tmp_path / "b" / "toy")])
    same, _ = candidates([str(tmp_path / "a" / "toy"), str(tmp_path / "a" / "toy" / "checkpoint-10")])
    assert len(same) == 1


def test_watching_a_run_until_its_last_checkpoint(do, flags, run, monkeypatch):
    monkeypatch.setattr(sweep, "WATCH_SECONDS", 0.05)
    record = json.loads((run / "run.json").read_text())
    record["meaning"]["max_steps"] = 30
    (run / "run.json").write_text(json.dumps(record))
    real = jobs.evaluate_checkpoint
    begun = []

    def train_on(job):
        begun.append(job.checkpoint)
        if len(begun) == 3:  # the pre-training goes on while the sweep works
            toy_checkpoint(run, 30)
        return real(job)

    monkeypatch.setattr(jobs, "evaluate_checkpoint", train_on)
    assert do(flags("--watch", "true", tasks="rte"))[0] == 0
    assert {r["checkpoint"]["step"] for r in read_results(run / "glue")} == {10, 20, 30}


def test_watching_waits_for_a_run_that_does_not_exist_yet(do, flags, run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweep, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(sweep, "REMIND_SECONDS", 0.3)
    record = json.loads((run / "run.json").read_text())
    record["meaning"]["max_steps"] = 20
    (run / "run.json").write_text(json.dumps(record))
    away = run.rename(run.with_name("away"))
    threading.Timer(1.0, lambda: away.rename(run)).start()
    code, _ = do(flags("--watch", "true", tasks="rte"))
    said = capsys.readouterr().err.splitlines()
    waiting = [line for line in said if "waiting for" in line]
    assert code == 0 and 2 <= len(waiting) <= 5  # once, then every REMIND_SECONDS
    assert waiting[0] == f"waiting for {run}, a folder that pretrain.sh makes before step 1; Ctrl-C ends it"
    assert any(re.match(rf"{run.name}/checkpoint-10: .*RTE [\d.]+", line) for line in said), said
    assert any(re.match(rf"{run.name}/checkpoint-20: .*RTE [\d.]+", line) for line in said)


def test_watching_is_not_over_before_a_second_run_has_a_checkpoint(run, tmp_path):
    """pretrain.sh makes its folder, then tokenises, and only later writes run.json."""
    second = tmp_path / "second"
    assert training_is_over([str(run)]) and not training_is_over([str(run), str(second)])
    second.mkdir()
    assert not training_is_over([str(run), str(second)])
    toy_run(second)
    assert training_is_over([str(run), str(second)])


def test_a_mistake_is_refused_before_the_waiting(do, flags, tmp_path, capsys):
    with pytest.raises(UserError, match="found no model config"):
        do(flags("--watch", "true", tasks="rte", runs=[tmp_path / "later", "random:configs/missing.json"]))
    assert "waiting for" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "awaited"),
    [
        ("runs/later", True),
        ("./later", True),
        ("roberta-base", False),
        ("FacebookAI/roberta-base", False),
        ("random:x", False),
    ],
)
def test_a_name_is_a_run_to_wait_for_or_a_hub_id(name, awaited):
    assert is_awaited(name) is awaited


def test_what_a_folder_s_numbers_share(flags):
    meaning = shared_settings(*parse_sweep(flags("--max_eval_samples", "5", "--learning_rate", "1e-3")))
    assert meaning["max_eval_samples"] == 5 and meaning["learning_rate"] == 1e-3 and meaning["bf16"] is False


def test_devices_are_named_as_the_user_sees_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_devices() == ["3", "5"]


def test_the_door_prints_what_it_would_run(run, glue):
    environment = {
        **os.environ, "DRY_RUN": "1", "RUN": f"{run} random:x.json", "TASKS": "cola rte", "SEEDS": "1 2", "EPOCHS": "2",
        "GLUE_DATA": str(glue), "MNLI_INIT": "1", "LEARNING_RATES": "1e-5 3e-5", "PYTHON": sys.executable,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(REPOSITORY / "finetune_glue.sh"), "--bf16", "true"],
        env=environment,
        capture_output=True,
        text=True,
    )
    command = done.stdout.split()
    assert done.returncode == 0 and command[1:4] == ["-m", "recipe.sweep", "--runs"]
    arguments, rest = parse_sweep(command[3:])
    assert arguments.runs == [str(run), "random:x.json"] and arguments.seeds == [1, 2] and arguments.mnli_init
    assert arguments.learning_rates == [1e-5, 3e-5] and arguments.report_to == "wandb"
    assert rest == ["--glue_data", str(glue), "--num_train_epochs", "2", "--bf16", "true"]
    del environment["RUN"]
    done = subprocess.run(
        ["bash", str(REPOSITORY / "finetune_glue.sh")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "found no RUN: name a folder" in done.stderr


# ---- with processes


def begin(argv, **environment):
    command = [sys.executable, "-m", "recipe.sweep", *argv]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=settings, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def alive(process_id):
    status = Path(f"/proc/{process_id}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers under /proc")
def test_killed_and_continued(do, flags, run, tmp_path):
    """kill -9 in the middle: workers end too, what is done stays, nothing partial is left, and the union equals an
    uninterrupted sweep's."""
    process = begin(flags("--num_train_epochs", "8"))
    folder = run / "glue"
    until(lambda: len(list(folder.rglob("*-seed*.json"))) >= 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    until(lambda: not any(alive(child) for child in children))
    done = {path: path.read_bytes() for path in folder.rglob("*-seed*.json")}
    assert 2 <= len(done) < 8
    code, engine = do(flags("--num_train_epochs", "8"))
    assert code == 0 and len(engine.order) == 8 - len(done)
    assert all(path.read_bytes() == content for path, content in done.items())
    do(flags("--num_train_epochs", "8", "--results_dir", str(tmp_path / "whole")))
    assert scores_of(folder) == scores_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_on_one_folder(flags, run):
    both = [begin(flags(tasks="rte cola mrpc")) for _ in range(2)]
    said = [process.communicate(timeout=250)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(scores_of(run / "glue")) == 12
    trained = [line for text in said for line in text.splitlines() if line.startswith("[") and " s)" in line]
    assert len(trained) == 12  # nothing twice
    assert all(any(" s)" in line for line in text.splitlines()) for text in said)  # and both had a share


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_job_alone(flags, tmp_path):
    first, second = planned(flags(tasks="rte", seeds="1 2"))[:2]
    engine = Processes(tmp_path / "logs")
    since = time.time()
    engine.submit(first, since)
    until(lambda: first.result.with_name(f".{first.result.stem}.lock").exists())
    worker = engine.workers[0]._processes
    os.kill(next(iter(worker)), signal.SIGKILL)
    outcomes = []
    until(lambda: outcomes.extend(engine.wait(0.5)) or outcomes)
    assert outcomes[0].state == FAILED and "its worker died" in first.error.read_text()
    engine.submit(second, since)
    outcomes.clear()
    until(lambda: outcomes.extend(engine.wait(0.5)) or outcomes)
    assert outcomes[0].state == DONE
    engine.close()


@pytest.mark.slow
def test_stopped_by_a_signal(flags, run):
    process = begin(flags())
    until(lambda: list((run / "glue").rglob("*-seed*.json")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75 and "run the same command again" in said and "resource_tracker" not in said
