"""The benchmarks' command lines parse and their tables are computed correctly. Nothing is timed here."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from toy import REPOSITORY

from recipe.model.checkpoints import commit
from recipe.system.manifest import MANIFEST, damage


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    yield
    for name in ("step", "loader", "prepare", "start", "ladder", "turns", "measuring"):
        sys.modules.pop(name, None)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("name", ["step", "loader", "prepare", "start"])
def test_help_shows_a_command_that_parses(name, monkeypatch, capsys):
    program = importlib.import_module(name)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    output = capsys.readouterr().out
    assert ended.value.code == 0
    command = next(line for line in output.splitlines() if f"python benchmarks/{name}.py" in line)
    monkeypatch.setattr("sys.argv", [f"{name}.py", *command.split("  ")[2].split()[2:]])
    assert program.parsed().vocabulary == 50_265


def test_step_table_has_paired_ratios_and_shares_of_the_matrix_rate():
    step = importlib.import_module("step")

    def turns(*speeds):
        common = {"waiting": 0.25, "peak": 2e9, "step_memory": 5e8}
        return [common | {"tokens_per_second": s, "tokens_per_cpu_second": s**0.5} for s in speeds]

    case = {
        "names": ["tiny L128 ours", "tiny L128 stock"],
        "micro_batch": 32,
        "turns": [turns(600.0, 100.0, 900.0), turns(100.0, 50.0, 300.0)],  # pairs: 6, 2, 3; medians alone would say 6
        "matrix_rates": [12_000.0, 1_000.0, 9_000.0],
        "about": [{"flops_per_token": 10.0}] * 2,
    }
    failed = {"names": ["a", "large ours"], "micro_batch": 1, "error": "out of memory"}
    ours, stock, broken = cells(step.table([case, failed]))
    assert ours == ["tiny L128 ours", "600", "", "", "100%", "25.0%", "2,000", "500"]
    assert stock[2] == "6.00, 2.00, 3.00: 3.00x"
    assert stock[3:5] == ["1.73x", "33%"]
    assert broken[:2] == ["large ours", "failed: out of memory"]
    assert "at most 900 tokens/s" in step.notes([case, failed])


def test_each_case_of_gains_disables_one_feature():
    step, turns = importlib.import_module("step"), importlib.import_module("turns")
    setting = turns.Setting("configs/roberta_tiny.json", 128, 8, "tokenizer", "docstrings", "data", compile=True)
    options = type("Options", (), {"micro_batches": None, "gains": True})
    pairs = step.cases(options, setting)
    assert [rivals[1][0] for rivals in pairs] == [
        f"without: {name}"
        for name in ("masked-only head", "no attention mask", "fused optimizer", "dropout off", "DDP, not ZeRO-2",
                     "compile")
    ]  # fmt: skip
    for ours, rival in pairs:
        assert ours == ("ours", "ours", setting, "")
        changed = [name for name in vars(setting) if getattr(rival[2], name) != getattr(setting, name)]
        assert len(changed) + bool(rival[3]) == 1


def test_dense_head_gives_the_masked_only_loss(bpe, documents, monkeypatch):
    """Both sides of `step.py --gains` compute the same loss."""
    from toy import config_settings, sequences_of
    from transformers import AutoConfig

    from recipe.model import heads
    from recipe.model.loading import build_model

    turns = importlib.import_module("turns")
    config = AutoConfig.for_model(**config_settings("roberta"))
    batch = sequences_of(bpe, documents).__getitems__(range(4))
    losses = []
    for dense in (False, True):
        if dense:
            monkeypatch.setattr(heads, "use_masked_only_head", heads.use_masked_only_head)
            turns.dense_head()
        torch.manual_seed(0)
        model = heads.use_masked_only_head(build_model(config))
        losses.append(model(**batch)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_loader_and_start_tables():
    loader, start = importlib.import_module("loader"), importlib.import_module("start")
    rates = {"ours": [40.0, 90.0, 20.0], "gathering": [100.0, 100.0, 100.0], "stock": [4.0, 3.0, 4.0]}
    assert cells(loader.table({"L128": rates})) == [["L128", "40", "100", "4", "10.0, 30.0, 5.0: 10.0x"]]
    lines = cells(start.table({start.FRESH: [10.0, 20.0], "restart at step 10": [8.0, 10.0]}))
    assert lines[1] == ["restart at step 10", "9.0", "8.0, 10.0", "0.65"]


def test_prepare_table_is_per_token():
    prepare = importlib.import_module("prepare")
    common = {"megabytes": 10.0, "tokens": 1000, "cpu_seconds": 2.0, "peak": 3e8, "above_imports": 1e8}
    found = [
        common | {"side": "ours", "seconds": 1.0, "bytes": 2000, "bytes_of_earlier_maps": 0},
        common | {"side": "stock", "seconds": 4.0, "bytes": 6000, "bytes_of_earlier_maps": 5000},
    ]
    ours, stock = cells(prepare.table(found))
    assert ours == ["10 MB, ours", "1,000", "1,000", "500", "2.00", "300", "100"]
    assert stock[2] == "250"
    assert stock[4] == "6.00 (+5.0)"
    assert "median 4.0x" in prepare.versus(found)


def test_a_restart_checkpoint_has_the_requested_step(tmp_path):
    """The checkpoint that start.py makes is whole and has its step in every file where the Trainer reads it."""
    start = importlib.import_module("start")
    run, staged = tmp_path / "run", tmp_path / "staged"
    run.mkdir()
    (run / "run.json").write_text("{}")
    staged.mkdir()
    (staged / "model.safetensors").write_bytes(b"weights")
    pending = {"LossSinceLog": {"args": {}, "attributes": {"sum": 3.0, "since": 9}}}
    state = {"global_step": 10, "epoch": 0.5, "log_history": [{"step": 1}], "stateful_callbacks": pending}
    (staged / "trainer_state.json").write_text(json.dumps(state))
    torch.save({"last_epoch": 10, "_step_count": 11}, staged / "scheduler.pt")
    moments = {"step": torch.tensor(10.0), "exp_avg": torch.ones(2)}
    torch.save({"state": {0: moments}, "param_groups": []}, staged / "optimizer.pt")
    commit(staged, run / "checkpoint-10")

    made = start.restart_at(run, tmp_path / "copy", 1_000_000)
    assert made.name == "checkpoint-1000000"
    assert damage(made) is None
    assert json.loads((made / MANIFEST).read_text())["files"].keys() == {
        "model.safetensors", "trainer_state.json", "scheduler.pt", "optimizer.pt"
    }  # fmt: skip
    state = json.loads((made / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (1_000_000, 50_000.0)
    assert state["stateful_callbacks"]["LossSinceLog"]["attributes"] == {"sum": 0.0, "since": 1_000_000}
    assert torch.load(made / "scheduler.pt", weights_only=True)["last_epoch"] == 1_000_000
    assert torch.load(made / "optimizer.pt", weights_only=True)["state"][0]["step"] == 1_000_000
    assert damage(run / "checkpoint-10") is None  # the original is unchanged


def test_matrix_rate_is_finite_and_positive():
    rate = importlib.import_module("measuring").matrix_rate(torch.float32, size=64)
    assert np.isfinite(rate) and rate > 0


def test_ladder_compares_each_rung_with_its_base(tmp_path, monkeypatch, capsys):
    ladder = importlib.import_module("ladder")
    flags = ladder.flags_of("modern_mask_30")  # base -> modernbert -> modern -> this
    assert (flags["--config_name"], flags["--bf16"], flags["--mlm_probability"], flags["--max_steps"]) == (
        "configs/modernbert_tiny.json", True, 0.3, 1000,
    )  # fmt: skip
    header = "rung,seed,on,change,tokens,cpu_minutes,tokens_per_cpu_second,nats_a_token,bytes_a_token,nats_a_byte\n"
    table = tmp_path / "ladder.csv"
    table.write_text(
        header
        + "mask_30,1,base,--mlm_probability 0.3,2000000,1,100,6.0,4.0,1.5\n"
        + "base,1,,,2000000,1,100,6.4,4.0,1.6\n"
        + "base,2,,,2000000,3,100,6.8,4.0,1.7\n"
    )
    argv = f"ladder.py --dataset none --csv {table} --work {tmp_path} --rungs base mask_30"
    monkeypatch.setattr("sys.argv", argv.split())
    ladder.main()  # all results are in the table: nothing is trained
    base, masked = cells(capsys.readouterr().out.partition("\n\n")[2])
    assert base == ["base", "", "", "2.0", "2.0", "100", "6.600", "1.6000, 1.7000", ""]
    assert masked[:3] == ["mask_30", "base", "`--mlm_probability 0.3`"] and masked[-1] == "-0.1000"
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["rung", "base", "base", "mask_30"]
