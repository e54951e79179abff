"""No secret is written: markers are planted in flags, variables and URLs, then searched for in all output of commands."""

import base64
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import matplotlib
import pytest
import wandb
from glue_toys import planned, sweep_here, toy_checkpoint, write_glue
from toy import REPOSITORY, config_settings, pretrain_command
from transformers import TrainerState

import fill_mask
import prepare_data
import run_clm
import run_glue
import run_mlm
import run_qa
import train_tokenizer
from recipe.cli.program import run_script
from recipe.data.remote import fetch
from recipe.report import page as report
from recipe.report import publish, scores
from recipe.report.scores import rebuild
from recipe.sweep import sweep
from recipe.sweep.jobs import DONE, fail, run_job
from recipe.system.errors import UserError
from recipe.system.secrets import is_secret_name, redact, redact_all, redact_console, redact_words, url_identity
from recipe.train.callbacks import JsonLog
from recipe.train.run_record import record_run

# ---- what counts as secret


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_CONNECTION_STRING", "DB_PASSWORD", "--token", "--hub_token",
        "--push_to_hub_token", "X-Amz-Signature", "client_secret",
    ],
)  # fmt: skip
def test_secret_names_are_recognised(name):
    assert is_secret_name(name)
    flag = redact_all({"words": [f"--{name}", "abc"], name: "abc", "text": f"--{name}=abc, then"})
    assert "abc" not in json.dumps(flag)


@pytest.mark.parametrize(
    "name", ["TOKENIZER", "--tokenizer_name", "max_tokens", "mask_token", "KEYWORDS", "PWD", "seed"]
)
def test_names_of_ordinary_settings_are_not_secret(name):
    assert not is_secret_name(name)
    assert redact(f"{name}=abc") == f"{name}=abc" and redact_all({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    ("url", "shown", "identity"),
    [
        ("http://u:p@h:80/c.txt", "http://<hidden>@h:80/c.txt", "http://h:80/c.txt"),
        ("https://hf_abc@h/c.txt", "https://<hidden>@h/c.txt", "https://h/c.txt"),
        ("http://u:a/b@h/c.txt", "http://<hidden>@h/c.txt", "http://h/c.txt"),
        (
            "https://b.s3.amazonaws.com/c.txt?versionId=7&X-Amz-Date=2&X-Amz-Expires=9&X-Amz-Signature=ab%2F&x=1",
            "https://b.s3.amazonaws.com/c.txt?versionId=7&X-Amz-Date=2&X-Amz-Expires=9&X-Amz-Signature=<hidden>&x=1",
            "https://b.s3.amazonaws.com/c.txt?versionId=7&x=1",
        ),
        (
            "https://storage.googleapis.com/b/c?X-Goog-Credential=me&X-Goog-Signature=ab",
            "https://storage.googleapis.com/b/c?X-Goog-Credential=<hidden>&X-Goog-Signature=<hidden>",
            "https://storage.googleapis.com/b/c",
        ),
        (
            "https://a.blob.core.windows.net/c/t?sv=2024&se=9&sr=b&sp=r&sig=ab%3D#sha256=12",
            "https://a.blob.core.windows.net/c/t?sv=2024&se=9&sr=b&sp=r&sig=<hidden>#sha256=12",
            "https://a.blob.core.windows.net/c/t#sha256=12",
        ),
        (
            "https://d.cloudfront.net/t?Expires=9&Policy=ab_&Signature=cd~&Key-Pair-Id=ef",
            "https://d.cloudfront.net/t?Expires=9&Policy=<hidden>&Signature=<hidden>&Key-Pair-Id=<hidden>",
            "https://d.cloudfront.net/t",
        ),
        ("zip://*.csv::http://u:p@h/z?token=ab", "zip://*.csv::http://<hidden>@h/z?token=<hidden>", "zip://*.csv::http://h/z"),
        ("http://[::1]:80/t?sig=ab", "http://[::1]:80/t?sig=<hidden>", "http://[::1]:80/t"),
        *(
            (same, same, same)
            for same in (
                "s3://bucket/key/a@b.txt",
                "hf://datasets/user/name@main/x.txt",
                "abfs://container@account.dfs.core.windows.net/x?expires=3",
                "http://h:8265/a@b?sort=up&page=2#x",
            )
        ),
    ],
)  # fmt: skip
def test_a_url_keeps_everything_but_its_secrets(url, shown, identity):
    assert redact(url) == shown == redact(shown) and url_identity(url) == identity
    assert redact(f"cannot read ({url}): check it") == f"cannot read ({shown}): check it"
    assert redact_words(["x", url, "--hub_token", "t", "--seed", "1"]) == [
        "x",
        shown,
        "--hub_token",
        "<hidden>",
        "--seed",
        "1",
    ]


def test_a_known_secret_is_redacted_everywhere_and_a_common_word_is_not(monkeypatch, tmp_path):
    (tmp_path / "id_rsa").write_text("")
    monkeypatch.setenv("SOME_TOKEN", "tOken-0123456789")
    monkeypatch.setenv("OTHER_TOKEN", "training")  # a common word: redacted in its context only
    monkeypatch.setenv("SSH_KEY", str(tmp_path / "id_rsa"))
    monkeypatch.setenv("MIRROR", "https://u:pass%2Fword-1@h/")
    header = base64.b64encode(b"u:pass/word-1").decode()
    text = f"tOken-0123456789, training, {tmp_path / 'id_rsa'}, pass%2Fword-1, pass/word-1, {header}"
    assert redact(text) == f"<hidden>, training, {tmp_path / 'id_rsa'}, <hidden>, <hidden>, <hidden>"
    assert redact("OTHER_TOKEN=training Authorization: Bearer abc.def-123") == (
        "OTHER_TOKEN=<hidden> Authorization: Bearer <hidden>"
    )
    assert "tOken" not in str(UserError("found tOken-0123456789"))


def test_a_redacted_console_is_the_same_stream(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "tOken-0123456789")
    raw = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", line_buffering=True)
    monkeypatch.setattr("sys.stdout", raw)
    monkeypatch.setattr("sys.stderr", err := io.StringIO())
    logging.getLogger("recipe.test").addHandler(logging.StreamHandler(err))  # handlers keep a reference to the stream
    redact_console()
    redact_console()  # a second call changes nothing
    assert sys.stdout is raw and raw.encoding == "utf-8" and raw.line_buffering and not raw.isatty()
    assert sys.stdout.write("tOken-0123456789\n") == len("tOken-0123456789\n")
    print("é", "tOken-0123456789")
    sys.stdout.writelines(["tOken-0123456789\n"])
    logging.getLogger("recipe.test").error("http://u:p@h/")
    assert (
        raw.buffer.getvalue().decode() == "<hidden>\né <hidden>\n<hidden>\n" and "http://<hidden>@h/" in err.getvalue()
    )
    copied = []  # as W&B does, which wraps the stream's write
    wrapped = raw.write
    raw.write = lambda text: copied.append(text) or wrapped(text)
    redact_console()
    print("tOken-0123456789", end="")
    assert "".join(copied) == "<hidden>"


def test_an_uncaught_error_shows_no_secret():
    program = "from recipe.cli.program import run_script\ndef main():\n  raise KeyError('http://u:p@h/?sig=1', 'tOken-0123456789')\n"
    command = [sys.executable, "-c", f"{program}run_script(main)", "--token", "tOken-0123456789"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 1 and "KeyError: ('http://<hidden>@h/?sig=<hidden>', '<hidden>')" in done.stderr


def test_a_run_continues_with_another_password_and_an_older_record_is_redacted(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--token", "a"])
    record_run(tmp_path, {"data": "http://u:one@h/c?sig=1"}, {"hub_token": "abc", "seed": 1})
    before = json.loads((tmp_path / "run.json").read_text())
    assert before["meaning"] == {"data": "http://<hidden>@h/c?sig=<hidden>"}
    assert before["settings"] == {"hub_token": "<hidden>", "seed": 1} and before["command"] == [
        "x",
        "--token",
        "<hidden>",
    ]
    before["meaning"]["data"] = "http://u:one@h/c?sig=1"
    (tmp_path / "run.json").write_text(json.dumps(before))
    record_run(tmp_path, {"data": "http://u:two@h/c?sig=2"}, {})
    assert "one" not in (tmp_path / "run.json").read_text()


def test_each_writer_redacts_a_secret_in_what_it_writes(run, text_file, tmp_path, monkeypatch):
    """A run, a sweep and an error that name the folders they read, which contain a secret."""
    secret = "tOken-0123456789"
    monkeypatch.setenv("SOME_TOKEN", secret)
    place = tmp_path / secret
    glue, checkpoint = write_glue(place / "glue", rows=8, dev=8), toy_checkpoint(place / secret, 10)
    text = shutil.copy(text_file, place)
    assert run("--train_file", str(text), "--max_steps", "1")[0] == 0
    log = JsonLog(tmp_path / "log.jsonl")
    log.on_log(None, TrainerState(is_world_process_zero=True), None, {"from": str(place)})
    monkeypatch.setattr("recipe.report.scores.draw", lambda *_, **__: None)
    flags = ["--runs", checkpoint.parent, "--tasks", "rte", "--seeds", 1, "--glue_data", glue, "--max_seq_length", 48]
    flags += ["--prepared_dir", tmp_path / "data", "--results_dir", tmp_path / "scores", "--num_train_epochs", 1]
    (job,) = planned([*map(str, flags), "--use_cpu", "true"])
    assert run_job(job, 0.0).state == DONE
    record = job.result.read_text()
    job.result.write_text(record.replace("<hidden>", secret))  # as older versions wrote it
    rebuild(tmp_path / "scores")
    job.result.write_text(record)
    fail(job, f"no such file: {place}")

    (prepared,) = (tmp_path / "data").glob("*/prepared.json")
    files = [
        prepared,
        log.path,
        job.result,
        job.error,
        tmp_path / "scores" / "glue.csv",
        tmp_path / "scores" / "glue.md",
    ]
    for file in files:
        assert secret not in file.read_text() and "<hidden>" in file.read_text(), file


# ---- a server that requires a password and a signature


class ProtectedServer(BaseHTTPRequestHandler):
    """Serves `content` under any name to requests with the current user information and signature."""

    protocol_version = "HTTP/1.1"
    content, user, signature, got = b"", "", "", 0

    def do_HEAD(self, body=False):
        given = self.headers.get("Authorization", "")
        signature = parse_qs(urlsplit(self.path).query).get("X-Amz-Signature", [""])[0]
        if given != "Basic " + base64.b64encode(self.user.encode()).decode() or signature != self.signature:
            return self._answer(401, b"")
        first, last = 0, len(self.content) - 1
        if wanted := self.headers.get("Range"):
            parts = wanted.removeprefix("bytes=").split("-")
            first, last = int(parts[0]), min(int(parts[1] or last), last)
        type(self).got += body
        part = self.content[first : last + 1]
        return self._answer(206 if wanted else 200, part if body else b"", len(part), first, last)

    def _answer(self, code, body, length=None, first=0, last=0):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        self.send_header("ETag", hashlib.sha256(self.content).hexdigest())
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.do_HEAD(body=True)

    def log_message(self, *_):
        pass


@pytest.fixture
def corpus_url(documents):
    """corpus_url(user, signature) sets what the server requires and returns the URL of its corpus with them."""
    pytest.importorskip("aiohttp", reason="pip install aiohttp")
    handler = type("Server", (ProtectedServer,), {"content": "\n\n".join(documents).encode()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def url(user: str, signature: str, control: str = "seven") -> str:
        handler.user, handler.signature = unquote(user), unquote(signature)
        query = f"versionId={control}&X-Amz-Date=1&X-Amz-Signature={signature}"
        return f"http://{user}@127.0.0.1:{server.server_port}/texts/corpus.txt?{query}"

    url.handler = handler
    yield url
    server.shutdown()


def test_a_new_signature_finds_the_file_fetched_with_an_older_one(corpus_url, tmp_path):
    first = fetch(corpus_url("u:one", "a%2Fb"), tmp_path)
    again = fetch(corpus_url("v:two", "c"), tmp_path)
    assert first == again and corpus_url.handler.got == 1
    assert first.path.name == "corpus.txt" == first.name and first.path.read_bytes() == corpus_url.handler.content
    corpus_url.handler.content += b" more"
    assert fetch(corpus_url("u:three", "d"), tmp_path).path != first.path and corpus_url.handler.got == 2
    with pytest.raises(UserError, match="401") as refused:
        fetch(corpus_url("u:four", "e").replace("four", "none"), tmp_path)
    assert "none" not in str(refused.value) and "X-Amz-Signature=<hidden>" in str(refused.value)


# ---- searching the output


class Markers:
    """Distinct values to plant; the search is for a part of each that no quoting changes."""

    def __init__(self):
        self.planted: dict[str, str] = {}

    def __call__(self, name: str, form: str = "{}") -> str:
        core = f"zq{hashlib.sha256(name.encode()).hexdigest()[:14]}"
        self.planted[name] = core
        return form.format(core)

    def needles(self) -> dict[bytes, str]:
        return {core.encode(): name for name, core in self.planted.items()}


def content_of(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix == ".gz":
        return gzip.decompress(content)
    if file.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    return content


def found_in(folder: Path, needles: dict[bytes, str]) -> tuple[list[str], int, int]:
    """(where needles were found, number of files, bytes) for everything under `folder`, names included."""
    leaks, files, size = [], 0, 0
    for path in sorted(folder.rglob("*")):
        texts = [str(path.relative_to(folder)).encode()]
        if path.is_file() and not path.is_symlink():
            texts.append(content_of(path))
            files, size = files + 1, size + len(texts[-1])
        leaks += [f"{name} in {path}" for needle, name in needles.items() for text in texts if needle in text]
    return leaks, files, size


def test_the_search_covers_names_contents_and_archives(tmp_path):
    (tmp_path / "a-needle").mkdir()
    (tmp_path / "b").write_bytes(b"\0needle")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"needle"))
    assert len(found_in(tmp_path, {b"needle": "it"})[0]) == 3


def test_twenty_commands_write_no_marker(corpus_url, tmp_path, monkeypatch, capfd, squad, no_curve):
    """Every file, file name and console line of the commands that users run, W&B's files included."""
    marker, left = Markers(), tmp_path / "left"
    (left / "home").mkdir(parents=True)
    (left / "tmp").mkdir()
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    monkeypatch.chdir(left)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "AWS_", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(left / "none"))
    monkeypatch.setattr("tempfile.tempdir", str(left / "tmp"))
    variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    variables += ("AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "DB_PASSWORD", "CLIENT_SECRET")
    environment = {name: marker(name, "{}" + "0" * 24 if name == "WANDB_API_KEY" else "{}") for name in variables}
    environment |= {
        "MIRROR_URL": marker("MIRROR_URL", "https://mirror:{}@h/"),
        "WANDB_NOTES": marker("WANDB_NOTES", "on http://h/c.txt?sig={}"),
        "HOME": str(left / "home"), "TMPDIR": str(left / "tmp"), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline",
        "PYTHON": sys.executable, "MPLCONFIGDIR": matplotlib.get_configdir(),  # otherwise a search for fonts takes seconds
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_PROJECT", "toy")  # and the variables that select_trackers sets, to be restored
    for name in ("WANDB_SILENT", "WANDB_LOG_MODEL", "WANDB_INIT_TIMEOUT", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    config, glue = inputs / "roberta.json", write_glue(inputs / "glue", rows=16, dev=8)
    config.write_text(json.dumps(config_settings("roberta", 400)))
    model = toy_checkpoint(inputs / "toy", 10)
    control, outputs, ran = "zcontrol0123456789", [], []

    def planted(place: str) -> str:
        user = f"{marker(place + ' user')}:{marker(place + ' password', '{}%2Fx')}"
        return corpus_url(user, marker(place + " signature", "{}%2Bx"), control)

    def do(program, *argv, code=0):
        monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            run_script(program.main)
        return finish(program.__name__, ended.value.code, code)

    def bash(script, *argv, **exports):
        command = ["bash", str(REPOSITORY / script), *map(str, argv)]
        done = subprocess.run(command, env=os.environ | exports, capture_output=True, text=True, timeout=120)
        print(done.stdout, done.stderr)
        return finish(script, done.returncode, 0)

    def finish(name, ended, code):
        out, err = capfd.readouterr()
        outputs.append(out + err)
        ran.append(name)
        assert ended == code, (name, outputs[-1])
        return outputs[-1]

    def tokens(name):
        return ("--token", marker(f"{name} --token"), f"--hub_token={marker(f'{name} --hub_token')}")

    def pretraining(name, **more):
        flags = {
            "config_name": config, "tokenizer_name": "train", "vocab_size": 300, "dataset_name": planted(name),
            "prepared_dir": "data", "output_dir": "run", "max_seq_length": 32, "per_device_train_batch_size": 8,
            "max_steps": 2, "logging_steps": 1, "use_cpu": "true", "disable_tqdm": "true",
        } | more  # fmt: skip
        given = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        return (*given, "--do_train", "--do_eval", *tokens(name))

    fine = ("--max_seq_length", 48, "--use_cpu", "true", "--disable_tqdm", "true", "--prepared_dir", "data")
    tuning = ("--do_train", "--do_eval", "--max_steps", 1, *fine)

    wandb.teardown()  # otherwise its runs go to the folder of this process's first run
    do(run_mlm, *pretraining("train", report_to="wandb", run_name=marker("run name", "on http://h/c?token={}")))
    again = do(run_mlm, *pretraining("resume", max_steps=3), "--allow_changed", "max_steps")
    assert (
        "step 3/3" in again and "step 2/3" not in again and corpus_url.handler.got == 1
    )  # the data fetched with the first signature
    done = do(run_mlm, *pretraining("once more", max_steps=3))
    assert "is done" in done
    do(run_clm, *pretraining("clm", output_dir="clm"))
    refused = do(
        run_mlm, *pretraining("other"), "--validation_file", planted("stale").replace("corpus", "x") + "0", code=2
    )
    assert "401" in refused and "X-Amz-Signature=<hidden>" in refused
    settings = inputs / "settings.json"
    settings.write_text(json.dumps({
        "output_dir": "never", "do_train": True, "dataset_name": planted("json") + "0", "token": marker("json token"),
        "tokenizer_name": "train", "config_name": str(config), "max_seq_length": 32, "hub_token": marker("json hub_token"), "use_cpu": True, "disable_tqdm": True,
    }))  # fmt: skip
    assert "401" in do(run_mlm, settings, code=2)
    memory = marker("--upload_to", "memory://user:{}@bucket")
    data = ("--tokenizer_name", model, "--prepared_dir", "data")
    do(prepare_data, "--dataset_name", planted("prepare"), *data, "--upload_to", "uploaded", *tokens("prepare")[:2])
    assert "memory://<hidden>@bucket" in do(prepare_data, "--dataset_name", planted("up"), *data, "--upload_to", memory)
    do(train_tokenizer, "--train_file", planted("tokenizer"), "--output_dir", "tokenizer", "--vocab_size", 300,
       *tokens("tokenizer")[:2])  # fmt: skip
    of_model = ("--model_name_or_path", model)
    do(run_glue, *of_model, "--task_name", "rte", "--glue_data", glue, "--output_dir", "rte", *tuning, *tokens("glue"),
       "--save_model", "true")  # fmt: skip
    own = ("--train_file", planted("own"), "--validation_file", planted("own dev"))
    do(run_glue, *of_model, *own, "--output_dir", "own", *tuning, code=2)
    do(run_qa, *of_model, "--dataset_name", squad, "--doc_stride", 8, "--output_dir", "qa", *tuning, *tokens("qa"))
    sweep_here(monkeypatch)
    jobs = ("--runs", "run", "--tasks", "rte", "--newest", "true", "--glue_data", glue, "--num_train_epochs", 1)
    fine = ("--max_seq_length", 32, *fine[2:])
    do(sweep, *jobs, *fine, *tokens("sweep"))
    again = do(sweep, *jobs, *fine, *tokens("sweep again"))
    assert "[1/1]" not in again  # done already: the token is not among the settings of a job
    do(scores, "run")
    do(report, "run", "--max_checkpoints", 1)
    do(publish, "run", "published")
    do(fill_mask, model, "the <mask> sees", "--token", marker("fill --token"))
    dry = {"DATASET": planted("shell"), "MODEL": str(config), "DRY_RUN": "command", "RECIPE": "demo"}
    printed = bash("pretrain.sh", *tokens("shell"), **dry)
    assert "runs/roberta-corpus.txt-L128" in printed and "X-Amz-Signature=<hidden>" in printed
    bash("finetune_glue.sh", *tokens("glue.sh"), RUN="run", DRY_RUN="1")
    bash("finetune_qa.sh", *tokens("qa.sh"), RUN="run", DRY_RUN="1")
    bash("launch/slurm.sh", "pretrain.sh", *tokens("slurm"), **dry)
    bash(
        "launch/ray.sh",
        "pretrain.sh",
        *tokens("ray"),
        **dry,
        RAY_ADDRESS=marker("ray", "http://u:{}@h:8265"),
        OUTPUT_DIR="/x",
    )

    needles = marker.needles()
    leaks, files, size = found_in(left, needles)
    leaks += [f"{name} on the console of {ran[n]}" for needle, name in needles.items() for n, text in enumerate(outputs)
              if needle.decode() in text]  # fmt: skip
    assert not leaks, "\n".join(leaks)
    assert found_in(left, {control.encode(): "control"})[0] and control in "".join(outputs)  # what isn't secret is kept
    assert list(left.rglob("*.wandb")) and list(left.rglob("report.html")) and len(ran) >= 20 and len(needles) > 60
    with capfd.disabled():
        print(f"\n{len(ran)} commands, {files} files, {size:,} bytes, {len(needles)} markers: none found")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shells_ranks_and_workers_write_no_marker(corpus_url, tmp_path):
    """The same search after real processes: two ranks with W&B, a resume with another signature, a sweep's workers."""
    marker, left = Markers(), tmp_path / "left"
    left.mkdir()
    data, run = write_glue(tmp_path / "glue", rows=16, dev=8), left / "run"
    environment = {
        "WANDB_MODE": "offline", "WANDB_DIR": left, "REPORT_TO": "wandb", "HOME": left, "TMPDIR": left,
        "HF_TOKEN": marker("HF_TOKEN"), "WANDB_API_KEY": marker("WANDB_API_KEY", "{}" + "0" * 24),
        "MPLCONFIGDIR": matplotlib.get_configdir(), "PYTHON": sys.executable, "HF_HUB_OFFLINE": 1,
    }  # fmt: skip
    outputs = []

    def finish(command, exports):
        done = subprocess.run(command, env=exports, capture_output=True, text=True, timeout=600, cwd=left)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode == 0, outputs[-1]

    for place, steps in (("first", 4), ("then", 6)):
        url = corpus_url(f"u:{marker(place + ' password')}", marker(place + " signature"))
        flags = ("--token", marker(place + " token"), f"--hub_token={marker(place + ' hub_token')}")
        finish(*pretrain_command(tmp_path, "left/run", *flags, "--allow_changed", "max_steps", DATASET=url,
                                 MAX_STEPS=steps, SAVE_STEPS=2, NPROC_PER_NODE=2, **environment))  # fmt: skip
    assert corpus_url.handler.got == 1 and "step 6/6" in outputs[-1] and "step 4/6" not in outputs[-1]
    settings = {"RUN": run, "TASKS": "rte cola", "GLUE_DATA": data, "EPOCHS": 1, "WORKERS": 2, **environment}
    command = ["bash", str(REPOSITORY / "finetune_glue.sh"), "--use_cpu", "true", "--max_seq_length", "32", "--newest",
               "true", "--prepared_dir", str(tmp_path / "data"), "--token", marker("sweep token")]  # fmt: skip
    finish(command, os.environ | {name: str(value) for name, value in settings.items()})

    needles = marker.needles()
    leaks, files, size = found_in(tmp_path, needles)
    assert not leaks, "\n".join(leaks)
    assert not [name for needle, name in needles.items() for text in outputs if needle.decode() in text]
    assert list(left.rglob("worker-*.log")) and len(list(left.rglob("*.wandb"))) >= 4
    print(f"{len(outputs)} commands, {files} files, {size:,} bytes, {len(needles)} markers: none found")
