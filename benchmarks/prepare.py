#!/usr/bin/env python3
"""Text to tokens: tokens per second, bytes per token on disk and peak memory, ours against stock map and group_texts.

    python benchmarks/prepare.py --dataset path/to/folder_of_parquet_or_txt --megabytes 10 50 150
    python benchmarks/prepare.py --megabytes 3 6 12             the built-in corpus, which has some 12 MB

Each row is a process of its own on the same parquet file, the first so many megabytes of the corpus; the sides take
turns. The clock starts when the imports are done; CPU time is what all cores spent, without what others do on the
machine. Memory is the process's highest resident size, and what that is above the imports. Disk is the finished tokens:
our folder, and the Arrow files of stock's last map alone; what its tokenised map before that leaves in the cache comes
on top, in brackets.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, markdown, memory, publish
from turns import prepare_setting

sys.path.insert(0, str(ROOT))

SIDES = ("ours", "stock")
LENGTH = 512  # of stock's groups


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--child":
        child(json.loads(sys.argv[2]))
        return
    options = parsed()
    tokenizer, _ = prepare_setting(options.work, options.dataset, options.vocabulary, tokens=False)
    found = []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for megabytes in options.megabytes:
            text = Path(folder) / f"{megabytes}MB.parquet"
            size = write_text(options.dataset, megabytes, text)
            for number in range(options.pairs):
                for side in SIDES:
                    place = Path(folder) / f"{megabytes}-{number}-{side}"
                    found.append({"side": side, "megabytes": size / 1e6, **measured(side, text, tokenizer, place)})
                    print(found[-1], file=sys.stderr)
            text.unlink()
    title = f"Text to tokens, vocabulary {options.vocabulary:,}, {options.pairs} pairs, medians"
    publish(title, f"{table(found)}\n\n{versus(found)}", found, options.output)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="docstrings")
    parser.add_argument("--megabytes", nargs="+", type=float, default=[10, 50, 150], help="of text, UTF-8")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parser.add_argument("--work", type=Path, default=Path("data/benchmarks"), help="keeps the tokenizer")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    return parser.parse_args()


def write_text(dataset: str, megabytes: float, path: Path) -> int:
    """Writes the first documents of the corpus, up to `megabytes`, as one parquet file; returns their bytes."""
    import pyarrow
    import pyarrow.parquet

    from recipe.data.corpus import open_corpus

    size, batch = 0, []
    schema = pyarrow.schema([("text", pyarrow.large_string())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for text in open_corpus(dataset).train.documents():
            size += len(text.encode())
            batch.append(text)
            if size >= megabytes * 1e6 or len(batch) == 200:
                writer.write_table(pyarrow.table({"text": batch}, schema=schema))
                batch = []
            if size >= megabytes * 1e6:
                break
        if batch:
            writer.write_table(pyarrow.table({"text": batch}, schema=schema))
    return size


def measured(side: str, text: Path, tokenizer: str, folder: Path) -> dict:
    """What `child` found."""
    folder.mkdir()
    request = {"side": side, "text": str(text), "tokenizer": tokenizer, "folder": str(folder)}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--child", json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads((folder / "found.json").read_text())


# ---- the process that prepares


def child(request: dict) -> None:
    folder = Path(request["folder"])
    import transformers  # noqa: F401  both sides have it, and our scripts import it first, too

    work = ours_ready(request) if request["side"] == "ours" else stock_ready(request)
    base, began, began_cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    tokens, final, more = work()
    found = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "tokens": tokens,
        "bytes": final,
        "bytes_of_earlier_maps": more,
        "peak": memory("VmHWM"),
        "above_imports": memory("VmHWM") - base,
    }
    (folder / "found.json").write_text(json.dumps(found))


def ours_ready(request: dict):
    import prepare_data

    parent = Path(request["folder"]) / "prepared"
    flags = {"--train_file": request["text"], "--tokenizer_name": request["tokenizer"], "--prepared_dir": str(parent)}

    def work() -> tuple[int, int, int]:
        sys.argv = ["prepare_data.py", *(part for pair in flags.items() for part in pair)]
        prepare_data.main()
        made = next(parent.glob("*/prepared.json")).parent
        splits = json.loads((made / "prepared.json").read_text())["splits"].values()
        return sum(split["tokens"] for split in splits), sum(file.stat().st_size for file in made.iterdir()), 0

    return work


def stock_ready(request: dict):
    import itertools

    from datasets import load_dataset
    from transformers import AutoTokenizer

    def work() -> tuple[int, int, int]:
        tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"])
        rows = load_dataset("parquet", data_files=request["text"], split="train")

        def tokenize(batch):
            return tokenizer(batch["text"], return_special_tokens_mask=True)

        def group_texts(batch):
            joined = {name: list(itertools.chain(*column)) for name, column in batch.items()}
            whole = len(joined["input_ids"]) // LENGTH * LENGTH
            return {
                name: [column[start : start + LENGTH] for start in range(0, whole, LENGTH)]
                for name, column in joined.items()
            }

        tokenised = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
        grouped = tokenised.map(group_texts, batched=True)
        disk = [sum(Path(file["filename"]).stat().st_size for file in one.cache_files) for one in (grouped, tokenised)]
        return len(grouped) * LENGTH, *disk

    return work


# ---- what came of it


def table(found: list[dict]) -> str:
    """A line a side and size, medians over its processes."""
    groups: dict[tuple, list[dict]] = {}
    for one in found:
        groups.setdefault((one["megabytes"], one["side"]), []).append(one)
    lines = []
    for (megabytes, side), ones in groups.items():
        tokens = ones[0]["tokens"]
        extra = f" (+{ones[0]['bytes_of_earlier_maps'] / tokens:.1f})" if ones[0]["bytes_of_earlier_maps"] else ""
        lines.append([
            f"{megabytes:.0f} MB, {side}",
            f"{tokens:,}",
            f"{statistics.median(tokens / one['seconds'] for one in ones):,.0f}",
            f"{statistics.median(tokens / one['cpu_seconds'] for one in ones):,.0f}",
            f"{ones[0]['bytes'] / tokens:.2f}{extra}",
            f"{statistics.median(one['peak'] for one in ones) / 1e6:,.0f}",
            f"{statistics.median(one['above_imports'] for one in ones) / 1e6:,.0f}",
        ])  # fmt: skip
    return markdown(
        ["", "tokens", "tokens/s", "tokens per CPU second", "bytes per token", "peak MB", "MB above the imports"], lines
    )


def versus(found: list[dict]) -> str:
    """The ratio of speed of each pair."""
    said = []
    for clock in ("seconds", "cpu_seconds"):
        ours, stock = ([one["tokens"] / one[clock] for one in found if one["side"] == side] for side in SIDES)
        ratios = [one / other for one, other in zip(ours, stock, strict=True)]
        shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        said.append(f"tokens by {clock}, ours / stock, each pair: {shown}; median {statistics.median(ratios):.1f}x")
    return "\n\n".join(said)


if __name__ == "__main__":
    main()
