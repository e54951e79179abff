"""Two hosts, simulated by two network namespaces joined by a virtual cable: bash pretrain.sh on both gives the same run as
on one host; when a host dies or the cable is cut, the other stops within a known time, and the same command resumes."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from toy import pretrain_command

from recipe.model.checkpoints import checkpoints
from recipe.system.errors import INTERRUPTED_EXIT_CODE
from recipe.system.manifest import damage

HOSTS = {"recipe-a": "10.77.0.1", "recipe-b": "10.77.0.2"}
TIMEOUT = 20  # seconds, for --ddp_timeout
STEPS = 60


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


def can_make_hosts() -> bool:
    return (
        bool(shutil.which("ip"))
        and os.geteuid() == 0
        and subprocess.run(["ip", "netns", "add", "recipe-probe"], capture_output=True).returncode == 0
        and not ip("netns", "del", "recipe-probe")
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_make_hosts(), reason="needs root and ip netns to simulate two hosts"),
]


@pytest.fixture
def hosts():
    """Two network namespaces that reach only each other."""
    names = list(HOSTS)
    for name in names:
        ip("netns", "del", name, check=False)
        ip("netns", "add", name)
    ip("link", "add", "recipe-va", "netns", names[0], "type", "veth", "peer", "name", "recipe-vb", "netns", names[1])
    for name, cable in zip(names, ("recipe-va", "recipe-vb"), strict=True):
        ip("-n", name, "addr", "add", f"{HOSTS[name]}/24", "dev", cable)
        ip("-n", name, "link", "set", cable, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names:
        for process in ip("netns", "pids", name, check=False).split():
            os.kill(int(process), signal.SIGKILL)
        ip("netns", "del", name)


@pytest.fixture
def pretrain(tmp_path):
    def start(run: str, host: str | None = None, cable: str = "", processes: int = 1) -> subprocess.Popen:
        settings = {"MAX_STEPS": STEPS, "SAVE_STEPS": 5, "DS_CONFIG": "", "NPROC_PER_NODE": processes}
        inside = []
        if host:
            inside = ["ip", "netns", "exec", host]
            rank = list(HOSTS).index(host)
            settings |= {"NNODES": 2, "NODE_RANK": rank, "MASTER_ADDR": HOSTS["recipe-a"], "GLOO_SOCKET_IFNAME": cable}
        command, environment = pretrain_command(tmp_path, run, "--ddp_timeout", TIMEOUT, **settings)
        log = (tmp_path / f"{run}-{host}.log").open("a")
        return subprocess.Popen([*inside, *command], env=environment, stdout=log, stderr=log)

    return start


def curve_of(run: Path) -> list:
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    return [
        (line["step"], line.get("loss"), line.get("grad_norm"), line.get("eval_loss"))
        for line in lines
        if "train_loss" not in line
    ]


def until_step(run: Path, step: int, processes) -> None:
    deadline = time.monotonic() + 300
    while not (run / f"checkpoint-{step}").is_dir():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.02)


def both(pretrain, run: str) -> list[subprocess.Popen]:
    return [pretrain(run, "recipe-a", "recipe-va"), pretrain(run, "recipe-b", "recipe-vb")]


def test_two_hosts_give_the_run_of_one_and_resume_after_losing_one(hosts, pretrain, tmp_path, capsys):
    one = pretrain("one", processes=2)
    assert one.wait(timeout=300) == 0, (tmp_path / "one-None.log").read_text()[-3000:]
    assert [process.wait(timeout=300) for process in both(pretrain, "two")] == [0, 0], (
        tmp_path / "two-recipe-a.log"
    ).read_text()[-3000:]
    whole = curve_of(tmp_path / "one")
    assert curve_of(tmp_path / "two") == whole and len(whole) == STEPS + STEPS // 20 + 1

    waits = {}
    for accident in ("killed", "cut off"):
        run = tmp_path / accident
        first, second = both(pretrain, accident)
        until_step(run, 10, (first, second))
        if accident == "killed":
            for process in ip("netns", "pids", "recipe-b").split():
                os.kill(int(process), signal.SIGKILL)
        else:
            ip("-n", "recipe-b", "link", "set", "recipe-vb", "down")
        began = time.monotonic()
        codes = [process.wait(timeout=120) for process in (first, second)]
        waits[accident] = time.monotonic() - began
        output = (tmp_path / f"{accident}-recipe-a.log").read_text()
        assert codes[0] == INTERRUPTED_EXIT_CODE and "lost contact with another rank" in output, output[-3000:]
        assert codes[1] == (-signal.SIGKILL if accident == "killed" else INTERRUPTED_EXIT_CODE)
        assert waits[accident] < (10 if accident == "killed" else TIMEOUT + 30)
        assert [damage(folder) for folder in checkpoints(run)].count(None) >= 2
        ip("-n", "recipe-b", "link", "set", "recipe-vb", "up")
        assert [process.wait(timeout=300) for process in both(pretrain, accident)] == [0, 0]
        assert curve_of(run) == whole
    with capsys.disabled():
        print(
            f"\nthe other host stopped after: killed {waits['killed']:.1f} s, cable cut {waits['cut off']:.1f} s (--ddp_timeout {TIMEOUT})"
        )
