#!/usr/bin/env python3
"""A training step: tokens per second, memory and share of the machine's limit, ours against stock or against itself.

    python benchmarks/step.py                                             tiny, mini, medium at L 128, medium at L 512
    python benchmarks/step.py --models tiny --lengths 512 --compile off on --pairs 5
    python benchmarks/step.py --models medium base --lengths 512 --bf16 on --engines plain zero2      on a GPU
    python benchmarks/step.py --gains --models medium --lengths 512       ours with one thing at a time turned back
    python benchmarks/step.py --micro_batches 16 32 64 128 --models medium --lengths 512              the best one

Ours is run_mlm.py as a user starts it (benchmarks/turns.py). Both sides are loaded, take their first steps unmeasured
and then steps in turns, a stretch each, and a matrix product after each pair gives the limit of that moment. CPU time
leaves out what others do on the machine (set OMP_NUM_THREADS=1: a thread that waits for another counts, too). Memory is
the process's highest resident size and what it has above the trainer with its model; on a GPU, what torch allocated.
FLOP a token is that of the masked-only head for every row, so the shares of the limit compare.
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from measuring import markdown, matrix_rate, publish
from turns import CHANGES, Setting, Training, prepare_setting

DEFAULT_CASES = (("tiny", 128), ("mini", 128), ("medium", 128), ("medium", 512))
TOKENS = 4096  # a micro-batch, where none is given
WARM_UP_STEPS = 2
REFERENCE_TOKENS = 30_000 * 8192 * 512  # the run this recipe starts from
# What --gains turns back, by name: a change of the setting, or one of CHANGES.
SETTINGS_BACK = {
    "fused optimizer": {"optim": "adamw_torch"},
    "dropout off": {"dropout": 0.1},
    "DDP, not ZeRO-2": {"zero2": True},
}


def main() -> None:
    options = parsed()
    deadline = time.monotonic() + 60 * options.minutes
    tokenizer, prepared = prepare_setting(options.work, options.dataset, options.vocabulary)
    sizes = [(m, n) for m in options.models for n in options.lengths] if options.models else DEFAULT_CASES
    settings = [
        Setting(
            model=f"configs/roberta_{model}.json",
            length=length,
            micro_batch=max(1, options.tokens // length),
            accumulation=options.accumulation,
            tokenizer=tokenizer,
            dataset=options.dataset,
            prepared_dir=prepared,
            bf16=bf16 == "on",
            compile=compiled == "on",
            zero2=engine == "zero2",
            dropout=options.dropout,
            workers=options.workers,
        )
        for model, length in sizes
        for bf16 in options.bf16
        for compiled in options.compile
        for engine in options.engines
    ]
    found, left_out = [], []
    for setting in settings:
        for rivals in cases(options, setting):
            if time.monotonic() > deadline:
                left_out.append(", ".join(names(setting, rivals)))
                continue
            found.append(compared(setting, rivals, options))
            print(found[-1], file=sys.stderr)
    text = f"{table(found)}\n{notes(found)}"
    if left_out:
        text += f"\nLeft out, {options.minutes:g} minutes being over: {'; '.join(left_out)}"
    publish(f"Training steps, vocabulary {options.vocabulary:,}, {options.pairs} pairs, medians", text, found,
            options.output)  # fmt: skip


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["tiny", "mini", "small", "medium", "base", "large"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128])
    parser.add_argument("--bf16", nargs="+", choices=["off", "on"], default=["off"])
    parser.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off"])
    parser.add_argument("--engines", nargs="+", choices=["plain", "zero2"], default=["plain"])
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a micro-batch")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0, help="of both sides")
    parser.add_argument("--workers", type=int, default=0, help="that load data, of both sides")
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="a turn")
    parser.add_argument("--gains", action="store_true", help="ours against ours with one thing turned back")
    parser.add_argument("--micro_batches", nargs="+", type=int, help="ours alone with each of these")
    parser.add_argument("--minutes", type=float, default=1e9, help="no case begins after so many")
    parser.add_argument("--dataset", default="docstrings")
    parser.add_argument("--work", type=Path, default=Path("data/benchmarks"), help="keeps tokenizer and tokens")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


Rival = tuple[str, str, Setting, str]  # name, side, setting, what ours leaves out


def cases(options, setting: Setting) -> list[list[Rival]]:
    """The trainings that are compared, the first of each list being ours."""
    ours = ("ours", "ours", setting, "")
    if options.micro_batches:
        sizes = (replace(setting, micro_batch=size) for size in options.micro_batches)
        return [[(f"micro-batch {one.micro_batch}", "ours", one, "")] for one in sizes]
    if not options.gains:
        return [[ours, ("stock", "stock", setting, "")]]
    back = [(f"without: {name}", "ours", setting, name) for name in CHANGES]
    back += [(f"without: {name}", "ours", replace(setting, **change), "") for name, change in SETTINGS_BACK.items()]
    if setting.compile:
        back.append(("without: compile", "ours", replace(setting, compile=False), ""))
    return [[ours, rival] for rival in back]


def names(setting: Setting, rivals: list[Rival]) -> list[str]:
    model = Path(setting.model).stem.removeprefix("roberta_")
    return [
        f"{model} L{one.length}{' bf16' * one.bf16}{' compiled' * one.compile}{' ZeRO-2' * one.zero2} {name}"
        for name, _, one, _ in rivals
    ]


def compared(setting: Setting, rivals: list[Rival], options) -> dict:
    """Every turn of every rival, and the matrix rate after each pair; or the error that kept them from it."""
    turns: list[list[dict]] = [[] for _ in rivals]
    rates = []
    found = {"names": names(setting, rivals), "micro_batch": rivals[0][2].micro_batch}
    try:
        with ExitStack() as stack:
            trainings = [stack.enter_context(Training(side, one, without)) for _, side, one, without in rivals]
            for training in trainings:
                training.turn(WARM_UP_STEPS)
            for _ in range(options.pairs):
                for training, its in zip(trainings, turns, strict=True):
                    its.append(training.turn(options.steps))
                rates.append(matrix_rate(torch.bfloat16 if setting.bf16 else torch.float32))
            about = [training.about for training in trainings]
    except SystemExit as error:  # out of memory, or a missing package: the other cases are still measured
        return found | {"error": str(error).strip().splitlines()[-1]}
    return found | {"turns": turns, "matrix_rates": rates, "about": about}


def table(found: list[dict]) -> str:
    """One line a training; ratios are of pairs."""
    header = ["", "tokens/s", "ours against it, each pair", "by CPU time", "share of the matrix rate",
              "waiting for data", "peak MB", "MB of the step"]  # fmt: skip
    lines = []
    for case in found:
        if "error" in case:
            lines.append([case["names"][-1], f"failed: {case['error']}", *[""] * 6])
            continue
        ours = [turn["tokens_per_second"] for turn in case["turns"][0]]
        flops = case["about"][0]["flops_per_token"]
        for name, turns in zip(case["names"], case["turns"], strict=True):
            speeds = [turn["tokens_per_second"] for turn in turns]
            ratios = [one / other for one, other in zip(ours, speeds, strict=True)]
            shares = [speed * flops / rate for speed, rate in zip(speeds, case["matrix_rates"], strict=True)]
            by_cpu = [
                one["tokens_per_cpu_second"] / other["tokens_per_cpu_second"]
                for one, other in zip(case["turns"][0], turns, strict=True)
            ]
            against = f"{', '.join(f'{r:.2f}' for r in ratios)}: {statistics.median(ratios):.2f}x"
            lines.append([
                name,
                f"{statistics.median(speeds):,.0f}",
                *(["", ""] if turns is case["turns"][0] else [against, f"{statistics.median(by_cpu):.2f}x"]),
                f"{statistics.median(shares):.0%}",
                f"{statistics.median(turn['waiting'] for turn in turns):.1%}",
                f"{turns[-1]['peak'] / 1e6:,.0f}",
                f"{turns[-1]['step_memory'] / 1e6:,.0f}",
            ])  # fmt: skip
    return markdown(header, lines)


def notes(found: list[dict]) -> str:
    """The limit of each size, and how long the reference run would take."""
    said = []
    for case in found:
        if "error" in case:
            continue
        rate, flops = statistics.median(case["matrix_rates"]), case["about"][0]["flops_per_token"]
        speed = statistics.median(turn["tokens_per_second"] for turn in case["turns"][0])
        said.append(
            f"\n- {case['names'][0]}: micro-batch {case['micro_batch']}, {flops / 1e6:,.1f} MFLOP a token, matrix rate "
            f"{rate / 1e9:,.0f} GFLOP/s, so at most {rate / flops:,.0f} tokens/s; {REFERENCE_TOKENS / 1e9:.0f} G "
            f"tokens take {REFERENCE_TOKENS / speed / 3600:,.0f} hours"
        )
    return "".join(said)


if __name__ == "__main__":
    main()
