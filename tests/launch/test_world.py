"""World size and rank: what the environment variables say, and that the Trainer agrees."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks

from recipe.cli.program import run_script
from recipe.finetune.arguments import FineTuneArguments
from recipe.launch.world import World, announced_world, clear_launcher_variables, require_world
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.run_folder import run_lock

LAUNCHED = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    """Sets exactly the given launcher variables and no others."""
    kept = dict(os.environ)
    clear_launcher_variables()
    yield lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]
    monkeypatch.undo()
    os.environ.update(kept)


def test_world_from_launcher_variables(environment):
    assert announced_world() == World(1, 0)
    environment(WORLD_SIZE="1", RANK="0", MASTER_ADDR="head")  # a container with one process
    assert announced_world() == World(1, 0)
    environment(**LAUNCHED)
    assert announced_world() == World(2, 1)
    clear_launcher_variables()
    assert announced_world() == World(1, 0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "found WORLD_SIZE=2 in the environment, but no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "1234", "SLURM_PROCID": "1"}, "no RANK, LOCAL_RANK: .* see launch/slurm.sh"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}, "no LOCAL_RANK"),
        ({"LOCAL_RANK": "0"}, "found LOCAL_RANK=0 .* no RANK"),
        ({"WORLD_SIZE": "two"}, "found WORLD_SIZE=two .* expected a whole number"),
        ({"WORLD_SIZE": "0"}, "expected a rank below the number of processes"),
        (LAUNCHED | {"RANK": "2"}, "WORLD_SIZE=2 and RANK=2"),
        ({"RANK": "1"}, "found RANK=1"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE=2 .* not with mpirun or srun alone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("arguments", [PretrainArguments, FineTuneArguments])
def test_incomplete_launcher_variables_are_refused(environment, tmp_path, variables, message, arguments):
    environment(**variables)
    with pytest.raises(UserError, match=message) as refused:
        arguments(output_dir=str(tmp_path / "run"))
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
@pytest.mark.parametrize("arguments", [PretrainArguments, FineTuneArguments])
def test_processes_without_an_accelerator_form_a_cpu_group(tmp_path, arguments):
    def work(rank):
        more = {"global_batch_size": 12, "per_device_train_batch_size": 3} if arguments is PretrainArguments else {}
        args = arguments(output_dir=str(tmp_path), **more)
        return [args.world_size, args.process_index, args.device.type, args.gradient_accumulation_steps]

    accumulation = 2 if arguments is PretrainArguments else 1
    assert run_ranks(2, work, tmp_path / "ranks") == [[2, rank, "cpu", accumulation] for rank in (0, 1)]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_bf16_on_a_cpu_requires_use_cpu(tmp_path):
    with pytest.raises(ValueError, match="use_cpu"):
        PretrainArguments(output_dir=str(tmp_path), bf16=True)
    assert PretrainArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True).bf16


def test_a_world_that_differs_from_the_launchers_is_refused():
    for seen in (SimpleNamespace(world_size=1, process_index=0), SimpleNamespace(world_size=2, process_index=0)):
        with pytest.raises(UserError, match=r"announces rank 1 of 2 processes, but the Trainer sees rank 0 of"):
            require_world(seen, World(2, 1))
    require_world(SimpleNamespace(world_size=2, process_index=1), World(2, 1))


def test_a_mistake_is_printed_by_the_first_rank_of_a_node_and_by_a_single_process(environment, capsys):
    def mistaken():
        raise UserError("what was found")

    for variables, printed in (({"LOCAL_RANK": "1"}, True), (LAUNCHED, False), (LAUNCHED | {"LOCAL_RANK": "0"}, True)):
        clear_launcher_variables()
        environment(**variables)
        with pytest.raises(SystemExit) as end:
            run_script(mistaken)
        assert end.value.code == 2 and ("what was found" in capsys.readouterr().err) == printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("before", [(), ("notes.txt",)])
def test_a_signal_before_the_first_step_leaves_the_folder_unchanged(tmp_path, number, before):
    run = tmp_path / "runs" / "first"
    for name in before:
        run.mkdir(parents=True)
        (run / name).touch()
    found = sorted(tmp_path.rglob("*"))
    child = os.fork()
    if not child:
        signal.signal(number, signal.SIG_DFL)
        with run_lock(run):
            if (run / ".lock").exists():
                os.kill(os.getpid(), number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    assert sorted(tmp_path.rglob("*")) == found
    with pytest.raises(ZeroDivisionError), run_lock(run):
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == found
    with pytest.raises(ZeroDivisionError), run_lock(run):
        (run / "run.json").touch()  # written files stay, and so does the lock
        raise ZeroDivisionError
    assert {path.name for path in run.iterdir()} == {"run.json", ".lock", *before}
