"""recipe.cli.ctrl_c: Ctrl-C while a program still imports is one line and exit code 130."""

import signal
import subprocess
import sys
import time

import pytest
from toy import REPOSITORY

PROGRAMS = (["run_mlm.py"], ["run_glue.py"], ["train_tokenizer.py"], ["-m", "recipe.sweep", "--runs", "runs/none"])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda words: words[-1] if len(words) == 1 else words[1])
def test_ctrl_c_during_the_imports_is_one_line(program):
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", *program], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    lines = []
    for line in started.stderr:  # the interpreter reports each import as it ends
        lines.append(line)
        if line.rstrip().endswith(" recipe.cli.ctrl_c"):
            break
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, rest = started.communicate(timeout=60)
    said = [line for line in rest.splitlines() if line and not line.startswith("import time:")]
    assert started.returncode == 130 and said == ["stopped by Ctrl-C: nothing had begun"]
