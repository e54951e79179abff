#!/usr/bin/env python3
"""Loading and masking: tokens per second of one worker, ours against stock rows and collator; and what a step waits.

    python benchmarks/loader.py
    python benchmarks/loader.py --dataset my_corpus/ --lengths 128 512 --batch_tokens 32768

Each side is the DataLoader its Trainer would make, without worker processes, read for a stretch in turns: ours
`MaskedSequences`, stock a datasets.Dataset with DataCollatorForLanguageModeling. "Gathering" is ours without the masks.
The clock is the CPU time of the process, which has one thread: what others do on the machine stays out of it. The last
table is of benchmarks/turns.py: the share of a step's time that each Trainer spends fetching batches.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import ROOT, markdown, publish
from torch.utils.data import DataLoader, RandomSampler
from turns import MASK_RATE, Setting, Training, prepare_setting, stock_rows

sys.path.insert(0, str(ROOT))

from recipe.data.blocks import Blocks
from recipe.data.corpus import open_corpus
from recipe.data.inputs import SPLIT_SEED
from recipe.data.order import MicroBatches
from recipe.data.preparation import prepare_tokens
from recipe.data.tokenizer import block_ends, load_tokenizer
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)  # as in a DataLoader's worker
    tokenizer_folder, prepared_dir = prepare_setting(options.work, options.dataset, options.vocabulary)
    settings = [
        Setting(
            model=f"configs/roberta_{options.model}.json",
            length=length,
            micro_batch=max(1, options.batch_tokens // length),
            tokenizer=tokenizer_folder,
            dataset=options.dataset,
            prepared_dir=prepared_dir,
        )
        for length in options.lengths
    ]
    tokenizer = load_tokenizer(tokenizer_folder)
    found = {f"L{setting.length}": loaded(setting, tokenizer, options) for setting in settings}
    waits = {f"L{setting.length}": waiting(setting, options) for setting in settings if options.pairs_of_steps}
    text = table(found)
    if waits:
        text += f"\n\n{waiting_table(options.model, waits)}"
    publish(
        f"Loading and masking in one process, batches of {options.batch_tokens:,} tokens, {options.pairs} turns",
        text,
        {"tokens_per_second": found, "waiting": waits},
        options.output,
    )


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--batch_tokens", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of CPU time, a turn")
    parser.add_argument("--model", default="tiny", help="whose steps wait: the smallest waits most")
    parser.add_argument("--pairs_of_steps", type=int, default=3, help="turns of training; 0: none")
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parser.add_argument("--dataset", default="docstrings")
    parser.add_argument("--work", type=Path, default=Path("data/benchmarks"), help="keeps tokenizer and tokens")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def loaded(setting: Setting, tokenizer, options) -> dict[str, list[float]]:
    """Tokens per second of each side's turns."""
    streams = {
        "ours": ours(setting, tokenizer),
        "gathering": gathering(setting, tokenizer),
        "stock": stock(setting, tokenizer),
    }
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(options.pairs + 1):
        for name, stream in streams.items():
            tokens, began = 0, time.process_time()
            while (seconds := time.process_time() - began) < options.seconds:
                next(stream)
                tokens += setting.micro_batch * setting.length
            rates[name].append(tokens / seconds)
    return {name: values[1:] for name, values in rates.items()}  # the first turn warms up


def sequences(setting: Setting, tokenizer) -> MaskedSequences:
    prepared = prepare_tokens(open_corpus(setting.dataset), tokenizer, Path(setting.prepared_dir), seed=SPLIT_SEED)
    blocks = Blocks(prepared.checked("train"), setting.length, block_ends(tokenizer), tokenizer.pad_token_id)
    specials = tuple(tokenizer.all_special_ids)
    masking = Masking(len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id, specials, 0, MASK_RATE)
    return MaskedSequences(blocks, masking, order_seed=0)


def order(setting: Setting) -> MicroBatches:
    return MicroBatches(1 << 40, setting.micro_batch, 1, 0, 1, start=lambda: 0)


def ours(setting: Setting, tokenizer) -> Iterator:
    yield from DataLoader(sequences(setting, tokenizer), batch_sampler=order(setting), collate_fn=lambda batch: batch)


def gathering(setting: Setting, tokenizer) -> Iterator[np.ndarray]:
    data = sequences(setting, tokenizer)
    for numbers in order(setting):
        yield data.blocks.rows(data.block_ids(numbers))


def stock(setting: Setting, tokenizer) -> Iterator:
    from transformers import DataCollatorForLanguageModeling

    rows = stock_rows(setting, tokenizer)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASK_RATE)
    while True:
        yield from DataLoader(
            rows, setting.micro_batch, sampler=RandomSampler(rows), collate_fn=collator, drop_last=True
        )


def waiting(setting: Setting, options) -> dict[str, list[dict]]:
    """Turns of training of both sides."""
    turns: dict[str, list[dict]] = {"ours": [], "stock": []}
    with Training("ours", setting) as first, Training("stock", setting) as second:
        for number in range(options.pairs_of_steps + 1):
            for (_, its), training in zip(turns.items(), (first, second), strict=True):
                turn = training.turn(4)
                if number:
                    its.append(turn)
    return turns


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Tokens per second a worker, and the ratio of each pair."""
    lines = []
    for length, rates in found.items():
        ratios = [one / other for one, other in zip(rates["ours"], rates["stock"], strict=True)]
        middle = {name: f"{statistics.median(values):,.0f}" for name, values in rates.items()}
        shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        lines.append([length, middle["ours"], middle["gathering"], middle["stock"],
                      f"{shown}: {statistics.median(ratios):.1f}x"])  # fmt: skip
    return markdown(["", "ours, tokens/s", "gathering alone", "stock, tokens/s", "ours / stock, each turn"], lines)


def waiting_table(model: str, waits: dict[str, dict[str, list[dict]]]) -> str:
    """The share of training time that goes to fetching batches."""
    lines = [
        [f"{model} {length}", *(f"{statistics.median(turn['waiting'] for turn in its):.1%}" for its in turns.values())]
        for length, turns in waits.items()
    ]
    device = "GPU" if torch.cuda.is_available() else "CPU"
    return markdown([f"share of a step spent waiting for data, on this {device}", "ours", "stock"], lines)


if __name__ == "__main__":
    main()
