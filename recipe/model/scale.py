"""What a run takes of its devices, on paper: memory a device, bytes over the network a step, tokens a second.

    python -m recipe.model.scale configs/roberta_large.json            the tables of docs/scale.md for a config

Memory follows Rajbhandari et al., 2020 (ZeRO); a ring moves 2 (N - 1) / N of a buffer to reduce it to all, half of that
to reduce-scatter or to gather it (Patarasuk and Yuan, 2009). Estimates, with what they assume beside them.
"""

import sys
from dataclasses import dataclass

from transformers import PreTrainedConfig

from recipe.cli.program import run_script
from recipe.model.config import load_config
from recipe.system.errors import UserError

FAMILIES = ("roberta", "bert")
STAGES = {0: "DDP", 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
ADAM_BYTES = 8  # two fp32 moments a parameter
OVERLAP = 0.5  # share of the communication that backward hides


@dataclass(frozen=True)
class Device:
    """A device and its links: the rate of its matrix products in FLOP/s as training reaches it, and
    bytes a second it sends to its neighbour of the ring, within a node and between nodes."""

    name: str
    flops: float
    in_node: float
    between_nodes: float
    a_node: int = 8


H100 = Device("H100 80 GB, NVLink, 400 Gb/s a GPU", 0.40 * 989e12, 300e9, 40e9)
PCIE = Device("RTX 6000 Ada 48 GB, PCIe, 25 Gb/s a node", 0.35 * 364e12, 20e9, 0.4e9)


def parameters(config: PreTrainedConfig) -> int:
    """Weights of a RoBERTa or BERT masked language model, its tied vocabulary matrix counted once."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2) * width
    layer = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 4 * width
    head = (width + 1) * width + 2 * width + config.vocab_size
    return embeddings + layers * layer + head


def model_bytes(config: PreTrainedConfig, stage: int, devices: int, bf16: bool = True) -> float:
    """Weights, gradients and optimizer state a device, in bytes.

    fp32 and DDP with bf16 autocast hold fp32 weights and gradients (and, with bf16, a bf16 copy of the weights while a
    step runs). ZeRO in bf16 holds bf16 weights and gradients, and an fp32 copy beside the moments; stage 1 splits
    copy and moments over the devices, stage 2 the gradients, stage 3 the weights, too.
    """
    count = parameters(config)
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
    """What a micro-batch leaves for its backward, in bytes.

    A layer keeps, a token, its input, query, key, value, attention's output, the normalised sum, and both sides of the
    GELU: 8 widths and 2 inner widths (attention keeps no length x length matrix: SDPA recomputes it). The head keeps a
    masked token's logits, their log-softmax and their gradient in fp32 (less on a CPU). LayerNorm's are fp32 under
    autocast. Dropout's masks are not counted.
    """
    bytes_a_number = 2 if bf16 else 4
    tokens = micro_batch * length
    layer = (6 * config.hidden_size + 2 * config.intermediate_size) * bytes_a_number + 2 * 4 * config.hidden_size
    masked = tokens * mlm_probability
    head = masked * (3 * 4 * config.vocab_size + 4 * bytes_a_number * config.hidden_size)
    return tokens * (config.num_hidden_layers * layer + 3 * 4 * config.hidden_size) + head


def network_bytes(
    config: PreTrainedConfig, stage: int, devices: int, accumulation: int = 1, bf16: bool = True
) -> float:
    """What a device sends over the network in an optimizer step, in bytes.

    DDP reduces fp32 gradients once a step. DeepSpeed's ZeRO-1 and 2 reduce them to all devices, too, each of which
    keeps its part (its default, use_multi_rank_bucket_allreduce), and gather the weights once a step; ZeRO-1 reduces
    once a step, ZeRO-2 in every micro-batch. ZeRO-3 scatters gradients, and gathers the weights for forward and for
    backward, in every micro-batch.
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
    """FLOP of a training step over `tokens` with the masked-only head (as recipe.model.flops.flops_per_token)."""
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
    """Seconds a step: compute at the device's rate, and the part of the communication that backward doesn't hide.

    A ring is as fast as its slowest link. Data loading, logging and saving are not in it.
    """
    accumulation = max(1, global_batch // (micro_batch * devices))
    compute = step_flops(config, global_batch * length // devices, length) / device.flops
    if devices == 1:
        return compute
    link = device.in_node if devices <= device.a_node else device.between_nodes
    return compute + (1 - OVERLAP) * network_bytes(config, stage, devices, accumulation, bf16) / link


def tables(name: str) -> str:
    """The tables of docs/scale.md for a config file, as markdown."""
    config, length, micro_batch, global_batch = load_config(name), 512, 32, 8192
    if config.model_type not in FAMILIES:
        raise UserError(f"{name} is a {config.model_type} model, the formulas are for {' and '.join(FAMILIES)}")
    activations = activation_bytes(config, micro_batch, length)
    lines = [
        f"## {name}: {parameters(config) / 1e6:.1f} M parameters, length {length}",
        "",
        f"Memory a device, GB: model and optimizer, plus {activations / 1e9:.1f} GB for a micro-batch of {micro_batch}",
        "",
        "| | 1 device | 8 | 64 | 512 |",
        "|---|---|---|---|---|",
    ]
    worlds = (1, 8, 64, 512)
    for stage, label in STAGES.items():
        cells = [f"{model_bytes(config, stage, n) / 1e9:.2f}" for n in worlds]
        lines.append(f"| {label}, bf16 | {' | '.join(cells)} |")
    lines += ["", f"Sent a device and step, GB, global batch {global_batch}, micro-batch {micro_batch}", ""]
    lines += ["| | 1 device | 8 | 64 | 512 |", "|---|---|---|---|---|"]
    for stage, label in STAGES.items():
        cells = []
        for n in worlds:
            accumulation = max(1, global_batch // (micro_batch * n))
            cells.append(f"{network_bytes(config, stage, n, accumulation) / 1e9:.2f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for device in (H100, PCIE):
        lines += ["", f"Million tokens a second (share of {device.name} at its own rate)", ""]
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
    names = sys.argv[1:] or ["configs/roberta_medium.json", "configs/roberta_base.json", "configs/roberta_large.json"]
    print("\n\n".join(tables(name) for name in names))


if __name__ == "__main__":
    run_script(main)
