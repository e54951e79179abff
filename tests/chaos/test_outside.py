"""R14, R21 and R22: trackers, launcher, mutation testing; and the rows that the default suite covers."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from harness import curve_of, state_of
from toy import REPOSITORY

pytestmark = pytest.mark.chaos


@pytest.fixture
def hanging_server():
    """A server on loopback that accepts connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        while True:
            try:
                held.append(listener.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_r14_tracker_down(bench, record, hanging_server):
    assert bench.finish("plain") == 0
    expected, waits = state_of(bench.folder / "plain"), {}
    cases = {
        "no key": {},
        "no route": {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        "server hangs": {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": hanging_server},
    }
    for name, exports in cases.items():
        run = f"tracked-{name.replace(' ', '-')}"

        def before(exports=exports):
            os.environ.pop("WANDB_MODE", None)
            os.environ.update({"WANDB_DIR": str(bench.folder), "HOME": str(bench.folder)} | exports)

        began = time.monotonic()
        pid = bench.start(run, before=before, report_to="wandb")
        while bench.now() == "set-up":
            time.sleep(0.01)
        waits[name] = time.monotonic() - began
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert state_of(bench.folder / run) == expected
        assert curve_of(bench.folder / run) == curve_of(bench.folder / "plain")
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in waits.items())
    record("R14", f"W&B down; seconds to the first step: {shown}", "3/3 same weights, log.jsonl complete")
    assert max(waits.values()) < 12


def launched(bench, name, **exports):
    environment = os.environ | {
        "PYTHON": sys.executable, "RECIPE": "demo", "MODEL": str(bench.config), "DATASET": str(bench.text),
        "OUTPUT_DIR": str(bench.folder / name), "SEQ_LENGTH": "32", "GLOBAL_BATCH_SIZE": "8", "MICRO_BATCH_SIZE": "4",
        "MAX_STEPS": "3000", "SAVE_STEPS": "1000", "EVAL_STEPS": "1000", "LOGGING_STEPS": "1", "VOCAB_SIZE": "300",
        "OMP_NUM_THREADS": "1",
    } | exports  # fmt: skip
    command = [
        "bash",
        str(REPOSITORY / "pretrain.sh"),
        "--prepared_dir",
        str(bench.folder / "data"),
        "--use_cpu",
        "true",
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children_named(name):
    found = subprocess.run(["pgrep", "-f", name], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


@pytest.mark.parametrize("processes", [1, 2])
def test_r21_signals_through_the_launcher(bench, record, processes):
    name = f"launched-{processes}"
    process = launched(bench, name, NPROC_PER_NODE=str(processes))
    log = bench.folder / name / "log.jsonl"
    while not log.exists() or '"step": 3' not in log.read_text():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=90)
    time.sleep(1)
    orphans = children_named(str(bench.folder / name))
    saved = list((bench.folder / name).glob("checkpoint-*"))
    record(
        f"R21 ({processes} process{'es' * (processes > 1)})",
        f"SIGTERM to bash pretrain.sh: exit {process.returncode}",
        f"{len(saved)} checkpoint saved, {len(orphans)} orphans",
    )
    assert process.returncode == 75 and len(saved) == 1 and not orphans, printed[-2000:]
    assert "stopped by SIGTERM" in printed


# Mutations of tests/mutation_list.py that would silently lose or falsify results.
GUARDS = [
    "loader-generator",
    "seek",
    "manifest-content",
    "nonfinite",
    "loss-per-item",
    "loss-since-log",
    "stop-signals",
    "rotation-just-saved",
    "log-after-resume",
    "settings-compared",
    "full-disk",
    "run-lock",
    "tracker-guarded",
]


@pytest.mark.timeout(1800)
def test_r22_the_tests_detect_mutations(record):
    command = [sys.executable, str(REPOSITORY / "tests" / "mutations.py"), "--only", *GUARDS]
    done = subprocess.run(command, capture_output=True, text=True)
    detected = done.stdout.count(" detected by ")
    record(
        "R22",
        f"{len(GUARDS)} guards removed, one at a time ({', '.join(GUARDS)})",
        f"{detected}/{len(GUARDS)} detected",
    )
    assert (done.returncode, detected) == (0, len(GUARDS)), done.stdout + done.stderr


ROWS = {
    "R10": ("NaN and Inf in loss, gradient and weights", "train/test_trainer.py -k finite"),
    "R11": (
        "32x1 = 8x4 = 4x8 = 2 processes, loss and gradient norm to 1e-5",
        "train/test_trainer.py train/test_distributed.py -k split or processes",
    ),
    "R12": (
        "unusable data is refused, file and line named",
        "data/test_corpus.py data/test_preparation.py -k unusable",
    ),
    "R13": (
        "settings that don't match are refused with both values",
        "model/test_heads.py train/test_run_record.py scripts/test_run_mlm.py -k refused or fit or mistakes or bad",
    ),
    "R15": (
        "without a network hub names are refused at once and local data works",
        "data/test_corpus.py data/test_tokenizer.py model/test_heads.py -k hub or there or missing",
    ),
    "R19": (
        "from_pretrained and fill-mask on every checkpoint, logits equal",
        "scripts/test_run_mlm.py model/test_heads.py -k leaves or plain",
    ),
    "R20": ("losses of 20 steps against the committed ones, to 1e-6", "train/test_golden.py"),
}


@pytest.mark.parametrize("number", ROWS)
def test_rows_of_the_default_suite(number, record):
    what, selection = ROWS[number]
    files, _, expression = selection.partition(" -k ")
    command = [sys.executable, "-m", "pytest", *(f"tests/{file}" for file in files.split())]
    done = subprocess.run(
        command + (["-k", expression] if expression else []), cwd=REPOSITORY, capture_output=True, text=True
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    record(number, f"{what} ({files})", f"{passed[1]} tests pass" if done.returncode == 0 and passed else "FAILED")
    assert done.returncode == 0, done.stdout[-3000:]
