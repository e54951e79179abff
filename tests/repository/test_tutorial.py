"""docs/tutorial.md, typed from its first command to its last in a copy of the repository; small by variables alone."""

import json

import pytest
import torch
from documented import copy_repository, documented_commands, typed

TUTORIAL = [found for found in documented_commands() if found.file == "docs/tutorial.md"]
SMALL = {
    "MAX_STEPS": "4", "WARMUP_STEPS": "1", "SAVE_STEPS": "2", "EVAL_STEPS": "2", "LOGGING_STEPS": "1",
    "EVAL_BLOCKS": "16", "REPORT_TO": "none",
}  # fmt: skip


def test_the_tutorial_is_read_whole():
    assert [found.command.split(" ")[0] for found in TUTORIAL].count("python") == 7
    assert TUTORIAL[-1].command.endswith("--push_to_hub --hub_model_id user/name")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="it is written for a machine without a GPU")
def test_the_tutorial_from_beginning_to_end(tmp_path):
    folder = copy_repository(tmp_path)
    if not (folder / "glue").exists():
        pytest.skip("there are no GLUE files in ../shared/data")
    *commands, push = TUTORIAL
    for found in commands:
        done = typed(folder, found, timeout=900, **SMALL)
        assert done.returncode == 0, f"{found.command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    run = folder / "runs" / "tutorial"
    assert (folder / "my_corpus" / "documentation.jsonl").stat().st_size > 10_000_000
    assert len(json.loads((folder / "my_tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]) == 8192
    assert {"checkpoint-2", "checkpoint-4", "report.html", "run.json", "log.jsonl"} <= {
        file.name for file in run.iterdir()
    }
    table = (run / "glue" / "glue.csv").read_text()
    assert table.count("stsb") == 3 and "random:tutorial" in table
    assert (folder / "results" / "tutorial" / "glue" / "glue.csv").exists()
    refused = typed(folder, push)
    assert refused.returncode == 2 and "cannot be reached from here" in refused.stderr
    assert [line for line in refused.stderr.splitlines() if line.startswith("error")] == refused.stderr.splitlines()
