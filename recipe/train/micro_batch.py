"""The micro-batch of MICRO_BATCH_SIZE=auto on a GPU: the largest that fits, by the formulas of recipe.model.scale.

    python -m recipe.train.micro_batch configs/roberta_base.json 512 1024 --processes 8 --bf16

prints the sequences of 512 tokens that a GPU takes at a time where its share of the global batch is 1,024.
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.model.scale import activation_bytes, state_bytes
from recipe.system.errors import UserError

SHARE = 0.7  # of the memory; the formulas leave out the allocator's gaps and the kernels' workspace
LARGEST = 256  # more sequences at a time are no faster


@dataclass
class MicroBatchArguments:
    """What decides the memory of a step."""

    processes: int = option(1, "Processes of the run.")
    vocab_size: int | None = option(None, "Size of the vocabulary, where it isn't that of the config.")
    bf16: bool = option(False, "Whether the run is in bf16.")
    deepspeed: str | None = option(None, "The DeepSpeed configuration of the run.")


def largest_micro_batch(share: int, memory: float, state: float, per_sequence: float) -> int:
    """The largest divisor of `share`, the sequences that a device takes in a step, whose activations fit: `state` bytes
    are taken by weights, gradients and optimizer, `per_sequence` by each sequence. At least 1."""
    fitting = (SHARE * memory - state) / per_sequence
    return max(
        size for size in range(1, min(share, LARGEST) + 1) if share % size == 0 and (size <= fitting or size == 1)
    )


def main() -> int:
    args, (name, length, share) = parse(
        (MicroBatchArguments,), description=__doc__, positional=("model", "length", "share")
    )
    if not torch.cuda.is_available():
        raise UserError("found no GPU: set MICRO_BATCH_SIZE to a number")
    config = AutoConfig.from_pretrained(name)
    config.vocab_size = args.vocab_size or config.vocab_size
    with torch.device("meta"):
        parameters = AutoModelForMaskedLM.from_config(config).num_parameters()
    deepspeed = json.loads(Path(args.deepspeed).read_text()) if args.deepspeed else {}
    stage = deepspeed.get("zero_optimization", {}).get("stage", 0)
    state = state_bytes(parameters, stage, args.processes, args.bf16)
    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
    print(largest_micro_batch(int(share), memory, state, activation_bytes(config, 1, int(length), args.bf16, 0.3)))
    return 0


if __name__ == "__main__":
    run_script(main)
