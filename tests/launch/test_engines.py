"""bash pretrain.sh with every file of ds_config/ and with DDP, on two CPU processes: it trains, stops at a signal,
resumes, reports, and evaluates without training."""

import json
import signal
import subprocess
import time

import pytest
from toy import REPOSITORY, pretrain_command
from transformers import AutoModelForMaskedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ENGINES = ["", *sorted(f"ds_config/{path.name}" for path in (REPOSITORY / "ds_config").glob("*.json"))]


@pytest.fixture
def pretrain(tmp_path):
    def start(engine: str, run: str, *flags: str) -> subprocess.Popen:
        more = ["--ddp_timeout", 60, *["--bf16"] * bool(engine), *flags]
        command, environment = pretrain_command(
            tmp_path, run, *more, MAX_STEPS=40, SAVE_STEPS=10, DS_CONFIG=engine, NPROC_PER_NODE=2
        )
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def curve_of(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    return [(line["step"], line.get("loss"), line.get("learning_rate"), line.get("eval_loss")) for line in lines]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_stops_resumes_and_evaluates(pretrain, tmp_path, engine):
    def finish(process):
        output, _ = process.communicate(timeout=400)
        return process.returncode, output

    code, output = finish(pretrain(engine, "whole"))
    assert code == 0 and "eval loss" in output and "it was" in output and "0 parameters" not in output, output[-4000:]
    whole = curve_of(tmp_path / "whole")
    assert len([line for line in whole if line[1] is not None]) == 40

    process = pretrain(engine, "stopped")
    while not (tmp_path / "stopped" / "checkpoint-10").is_dir():
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75 and "the same command continues" in output, output[-4000:]
    code, output = finish(pretrain(engine, "stopped"))
    assert code == 0, output[-4000:]
    assert curve_of(tmp_path / "stopped") == whole
    models = [AutoModelForMaskedLM.from_pretrained(tmp_path / run) for run in ("whole", "stopped")]
    first, second = (model.state_dict() for model in models)
    assert all((first[name] == second[name]).all() for name in first)

    code, output = finish(pretrain(engine, "whole", "--do_train", "false"))
    assert code == 0 and "evaluating" in output, output[-4000:]
    evaluated = json.loads((tmp_path / "whole" / "eval_results.json").read_text())["eval_loss"]
    assert evaluated == pytest.approx(whole[-1][3], abs=0.02 if engine else 1e-6)  # ZeRO evaluated its bf16 weights
