#!/usr/bin/env python3
"""DDP and ZeRO's stages side by side, as a user starts them: tokens per second, memory and traffic a process.

    python benchmarks/engines.py                                    two CPU processes, in turn, three rounds
    python benchmarks/engines.py --processes 8 --bf16 true --model configs/roberta_base.json    on a node of GPUs

Each round starts every engine twice, for 4 and for 24 steps, by `python -m recipe.launch run_mlm.py` on the same
prepared data. Memory is the largest resident size of a process, imports included (on a GPU: see nvidia-smi). Traffic is
what /proc/net/dev counts on the loopback device, so it is right only where nothing else uses it; beside it stands
the figure of recipe.model.scale. So do the tokens per second that it predicts from two measurements: the speed of one
process, and the bytes per second that each of the processes sends while they do nothing but reduce gradients.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recipe.model.config import load_config  # noqa: E402
from recipe.model.scale import Device, network_bytes, parameters, step_flops, step_seconds  # noqa: E402

STAGES = {"one process": None, "DDP": 0, "ZeRO-1": 1, "ZeRO-2": 2, "ZeRO-3": 3}
FEW, MANY = 4, 24  # steps of the two runs whose difference in traffic is that of MANY - FEW steps
REDUCTIONS = 20  # all-reduces of a model's gradients that a link's rate is the mean of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="configs/roberta_mini.json")
    parser.add_argument("--dataset", default="docstrings")
    parser.add_argument("--prepared_dir", default="data")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", default="false", help="off on a CPU: it has no fast path there")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--global_batch_size", type=int, default=32)
    parser.add_argument("--micro_batch_size", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    options = parser.parse_args()

    found: dict[str, list[dict]] = {name: [] for name in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name, stage in STAGES.items():
                found[name].append(measured(options, stage, Path(folder) / f"{number}-{name}"))
                print(name, found[name][-1], file=sys.stderr)
        link = link_rate(options, Path(folder) / "link")
    print(table(options, found, link))
    if options.output:
        saved = {"options": vars(options) | {"output": None}, "found": found, "link": link}
        options.output.write_text(json.dumps(saved, indent=2))


def config_of(options):
    config = load_config(str(ROOT / options.model) if not Path(options.model).exists() else options.model)
    config.vocab_size = 8192
    return config


def link_rate(options, folder: Path) -> float:
    """Bytes per second that each process sends while all of them reduce a model's gradients, by gloo or NCCL."""
    folder.mkdir()
    torch.multiprocessing.spawn(_reduce, (options.processes, parameters(config_of(options)), folder), options.processes)
    return statistics.mean(float(file.read_text()) for file in folder.glob("rate-*"))


def _reduce(rank: int, ranks: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    gpus = torch.cuda.is_available()
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    torch.distributed.init_process_group(
        "nccl" if gpus else "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    gradients = torch.ones(count, device=device)
    for number in range(REDUCTIONS + 1):
        if number == 1:  # the first one makes the connections
            torch.distributed.barrier()
            began = time.perf_counter()
        torch.distributed.all_reduce(gradients)
    torch.distributed.barrier()
    sent = REDUCTIONS * 4 * count * 2 * (ranks - 1) / ranks
    (folder / f"rate-{rank}").write_text(str(sent / (time.perf_counter() - began)))
    torch.distributed.destroy_process_group()


def measured(options, stage: int | None, folder: Path) -> dict:
    """One run of MANY steps and one of FEW: tokens/s (median of the log), peak memory in bytes, bytes per step."""
    sent = []
    for steps in (FEW, MANY):
        run = folder.with_name(f"{folder.name}-{steps}")
        before = loopback_bytes()
        start(options, stage, run, steps)
        sent.append(loopback_bytes() - before)
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    rates = [line["tokens_per_second"] for line in lines if "loss" in line][3:]
    record = json.loads((run / "memory.json").read_text())
    processes = 1 if stage is None else options.processes
    return {
        "tokens_per_second": statistics.median(rates),
        "bytes": record["bytes"],
        "sent": (sent[1] - sent[0]) / (MANY - FEW) / processes,
        "loss": next(line["loss"] for line in reversed(lines) if "loss" in line),
    }


def start(options, stage: int | None, run: Path, steps: int) -> None:
    processes = 1 if stage is None else options.processes
    run.mkdir()
    command = [sys.executable, "-m", "recipe.launch", "--standalone", "--nproc_per_node", str(processes), "run_mlm.py"]
    command += ["--config_name", options.model, "--tokenizer_name", "train", "--dataset_name", options.dataset]
    command += ["--config_overrides", "hidden_dropout_prob=0,attention_probs_dropout_prob=0"]
    command += [
        "--prepared_dir",
        options.prepared_dir,
        "--output_dir",
        str(run),
        "--max_seq_length",
        str(options.length),
    ]
    command += ["--global_batch_size", str(options.global_batch_size), "--save_strategy", "no", "--do_train"]
    command += ["--per_device_train_batch_size", str(options.micro_batch_size), "--bf16", options.bf16]
    command += ["--max_steps", str(steps), "--learning_rate", "1e-3", "--logging_steps", "1", "--disable_tqdm", "true"]
    if not torch.cuda.is_available():
        command += ["--use_cpu", "true"]
    if stage:
        config = json.loads((ROOT / "ds_config" / f"zero{stage}_bf16.json").read_text())
        if options.bf16 == "false":
            del config["bf16"]
        (run / "ds.json").write_text(json.dumps(config))
        command += ["--deepspeed", str(run / "ds.json")]
    threads = os.environ.get("OMP_NUM_THREADS", "1")  # a thread a process: as many cores for one process as for a rank
    waiter = "import json, resource, subprocess, sys; subprocess.run(sys.argv[2:], check=True); open(sys.argv[1], 'w')"
    waiter += ".write(json.dumps({'bytes': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}))"
    wrapped = [sys.executable, "-c", waiter, str(run / "memory.json"), *command]
    done = subprocess.run(
        wrapped, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": threads}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])


def loopback_bytes() -> int:
    """What this machine has sent to itself."""
    file = Path("/proc/net/dev")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) for line in lines if line.split()[0] == "lo:"), 0)


def table(options, found: dict[str, list[dict]], link: float) -> str:
    config = config_of(options)
    tokens = options.global_batch_size * options.length
    alone = statistics.median(one["tokens_per_second"] for one in found["one process"])
    device = Device("measured", alone * step_flops(config, 1, options.length), link, link)
    accumulation = options.global_batch_size // (options.micro_batch_size * options.processes)
    bf16 = options.bf16 != "false"
    lines = [
        f"{options.model}, vocabulary 8,192, length {options.length}, {options.global_batch_size} sequences per step "
        f"in micro-batches of {options.micro_batch_size}, {options.processes} processes of "
        f"{os.environ.get('OMP_NUM_THREADS', '1')} thread, {'bf16' if bf16 else 'fp32'}, {platform.machine()}, "
        f"torch {torch.__version__}, {options.rounds} rounds, medians; a "
        f"process that only reduces gradients sends {link / 1e6:,.0f} MB/s",
        "",
        "| | tokens/s | predicted | against DDP, each round | peak MB per process | sent, MB per process and step "
        "| predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, stage in STAGES.items():
        rounds = found[name]
        ratios = [
            one["tokens_per_second"] / ddp["tokens_per_second"] for one, ddp in zip(rounds, found["DDP"], strict=True)
        ]
        predicted = (
            network_bytes(config, stage, options.processes, accumulation, bf16) / 1e6 if stage is not None else 0
        )
        sizes = (options.global_batch_size, options.micro_batch_size, options.length, device, bf16)
        speed = "" if stage is None else f"{tokens / step_seconds(config, stage, options.processes, *sizes):,.0f}"
        middle = {key: statistics.median(one[key] for one in rounds) for key in ("tokens_per_second", "bytes", "sent")}
        lines.append(
            f"| {name} | {middle['tokens_per_second']:,.0f} | {speed} "
            f"| {', '.join(f'{ratio:.2f}' for ratio in ratios)} "
            f"| {middle['bytes'] / 1e6:,.0f} | {middle['sent'] / 1e6:.1f} | {predicted:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
