"""Estimates for planning a run: memory per device, network traffic per step, tokens per second.

Memory follows Rajbhandari et al., 2020 (ZeRO). A ring sends 2 (N - 1) / N of a buffer per device for an all-reduce, and
half of that for a reduce-scatter or all-gather (Patarasuk and Yuan, 2009). Assumptions are stated with each formula.

    python -m recipe.model.scale configs/roberta_large.json
    python -m recipe.model.scale configs/bert_base.json configs/bert_large.json
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import sys
from dataclasses import dataclass

from transformers import PreTrainedConfig

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.model.config import load_config
from recipe.system.errors import UserError

FAMILIES = ("roberta", "bert")
STAGES = {0: "DDP", 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
ADAM_BYTES = 8  # per parameter: two fp32 moments
OVERLAP = 0.5  # share of the communication that overlaps with the backward pass


@dataclass(frozen=True)
class Device:
    """A device and its links: FLOP/s that training achieves, and bytes per second sent to the next device of a ring,
    within a node and between nodes."""

    name: str
    flops: float
    in_node: float
    between_nodes: float
    per_node: int = 8


H100 = Device("H100 80 GB, NVLink, 400 Gb/s per GPU", 0.40 * 989e12, 300e9, 40e9)
PCIE = Device("RTX 6000 Ada 48 GB, PCIe, 25 Gb/s per node", 0.35 * 364e12, 20e9, 0.4e9)


def parameters(config: PreTrainedConfig) -> int:
    """Number of parameters of a RoBERTa or BERT masked language model; the tied vocabulary matrix counts once."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2) * width
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    head = (width + 1) * width + 2 * width + config.vocab_size
    return embeddings + layers * layer + head


def model_bytes(config: PreTrainedConfig, stage: int, devices: int, bf16: bool = True) -> float:
    """Weights, gradients and optimizer state of a model of `config` per device, in bytes: see `state_bytes`."""
    return state_bytes(parameters(config), stage, devices, bf16)


def state_bytes(count: int, stage: int, devices: int, bf16: bool = True) -> float:
    """Weights, gradients and optimizer state of `count` parameters per device, in bytes.

    fp32 and DDP with bf16 autocast keep weights and gradients in fp32 (with bf16, plus a bf16 copy of the weights
    during a step). ZeRO in bf16 keeps bf16 weights and gradients, and fp32 master weights beside the moments. Stage 1
    partitions master weights and moments over the devices, stage 2 also the gradients, stage 3 also the weights.
    """
    half = bf16 and stage > 0
    weights, gradients = (2, 2) if half else (4, 4)
    state = ADAM_BYTES + (4 if half else 0)
    if stage >= 1:
        state /= devices
    if stage >= 2:
        gradients /= devices
    if stage >= 3:
        weights /= devices
    copy = 2 if bf16 and stage == 0 else 0
    return count * (weights + gradients + state + copy)


def activation_bytes(
    config: PreTrainedConfig, micro_batch: int, length: int, bf16: bool = True, mlm_probability: float = 0.15
) -> float:
    """Activations that a micro-batch keeps for the backward pass, in bytes.

    Per token a layer keeps its input, query, key, value, the attention's output, the normalised sum, and input and
    output of the GELU: 8 x width + 2 x inner width (no length x length matrix, which SDPA recomputes). Per masked token
    the head keeps logits, log-softmax and gradient in fp32 (less on a CPU). Activations of LayerNorm are fp32 under
    autocast. Dropout masks are not counted.
    """
    number_bytes = 2 if bf16 else 4
    tokens = micro_batch * length
    layer = (6 * config.hidden_size + 2 * config.intermediate_size) * number_bytes + 2 * 4 * config.hidden_size
    masked = tokens * mlm_probability
    head = masked * (3 * 4 * config.vocab_size + 4 * number_bytes * config.hidden_size)
    return tokens * (config.num_hidden_layers * layer + 3 * 4 * config.hidden_size) + head


def network_bytes(
    config: PreTrainedConfig, stage: int, devices: int, accumulation: int = 1, bf16: bool = True
) -> float:
    """Bytes that a device sends per optimizer step.

    DDP all-reduces fp32 gradients once per step. DeepSpeed's ZeRO-1 and 2 also all-reduce gradients, of which each
    device keeps its part (the default, use_multi_rank_bucket_allreduce), and all-gather the weights once per step;
    ZeRO-1 reduces once per step, ZeRO-2 once per micro-batch. ZeRO-3 reduce-scatters gradients and gathers the weights
    for the forward and the backward pass of every micro-batch.
    """
    share = (devices - 1) / devices
    buffer = parameters(config) * (2 if bf16 and stage > 0 else 4) * share
    if stage == 0:
        return 2 * buffer
    if stage == 1:
        return 3 * buffer
    if stage == 2:
        return (2 * accumulation + 1) * buffer
    return 3 * accumulation * buffer


def step_flops(config: PreTrainedConfig, tokens: int, length: int, mlm_probability: float = 0.15) -> float:
    """FLOPs of a training step over `tokens` with the masked-only head (as in recipe.model.flops.flops_per_token)."""
    width = config.hidden_size
    encoder = config.num_hidden_layers * (4 * width**2 + 2 * width * config.intermediate_size)
    head = (config.vocab_size * width + width**2) * mlm_probability
    return tokens * (6.0 * (encoder + head) + 12.0 * config.num_hidden_layers * length * width)


def step_seconds(
    config: PreTrainedConfig,
    stage: int,
    devices: int,
    global_batch: int,
    micro_batch: int,
    length: int,
    device: Device = H100,
    bf16: bool = True,
) -> float:
    """Seconds per step: computation at the device's rate plus the communication that doesn't overlap with it.

    A ring is as fast as its slowest link. Data loading, logging and saving are not included.
    """
    accumulation = max(1, global_batch // (micro_batch * devices))
    compute = step_flops(config, global_batch * length // devices, length) / device.flops
    if devices == 1:
        return compute
    link = device.in_node if devices <= device.per_node else device.between_nodes
    return compute + (1 - OVERLAP) * network_bytes(config, stage, devices, accumulation, bf16) / link


def tables(name: str) -> str:
    """The tables of docs/scale.md for a config file, in Markdown."""
    config, length, micro_batch, global_batch = load_config(name), 512, 32, 8192
    if config.model_type not in FAMILIES:
        raise UserError(f"{name} is a {config.model_type} model, the formulas are for {' and '.join(FAMILIES)}")
    activations = activation_bytes(config, micro_batch, length)
    lines = [
        f"## {name}: {parameters(config) / 1e6:.1f} M parameters, length {length}",
        "",
        f"Memory per device in GB: model, optimizer, and {activations / 1e9:.1f} GB for a micro-batch of {micro_batch}",
        "",
        "| | 1 device | 8 | 64 | 512 |",
        "|---|---|---|---|---|",
    ]
    worlds = (1, 8, 64, 512)
    for stage, label in STAGES.items():
        cells = [f"{model_bytes(config, stage, n) / 1e9:.2f}" for n in worlds]
        lines.append(f"| {label}, bf16 | {' | '.join(cells)} |")
    lines += ["", f"Traffic per device and step in GB: global batch {global_batch}, micro-batch {micro_batch}", ""]
    lines += ["| | 1 device | 8 | 64 | 512 |", "|---|---|---|---|---|"]
    for stage, label in STAGES.items():
        cells = []
        for n in worlds:
            accumulation = max(1, global_batch // (micro_batch * n))
            cells.append(f"{network_bytes(config, stage, n, accumulation) / 1e9:.2f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for device in (H100, PCIE):
        lines += ["", f"Million tokens per second (scaling efficiency), {device.name}", ""]
        lines += ["| | 1 device | 8 | 64 | 512 |", "|---|---|---|---|---|"]
        for stage, label in STAGES.items():
            alone = step_seconds(config, stage, 1, global_batch, micro_batch, length, device)
            cells = []
            for n in worlds:
                micro = min(micro_batch, max(1, global_batch // n))
                seconds = step_seconds(config, stage, n, global_batch, micro, length, device)
                cells.append(f"{global_batch * length / seconds / 1e6:.2f} ({alone / (n * seconds):.0%})")
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    sizes = [f"configs/roberta_{size}.json" for size in ("medium", "base", "large")]
    ((names,),) = parse((), sys.argv[1:] or sizes, description=__doc__, positional=("configs ...",))
    print("\n\n".join(tables(name) for name in names))


if __name__ == "__main__":
    run_script(main)
