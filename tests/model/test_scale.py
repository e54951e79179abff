"""Estimates of recipe.model.scale against real models' parameters and FLOPs, and the memory of real steps on a CPU."""

from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from toy import REPOSITORY, config_settings
from transformers import AutoConfig

from recipe.model.config import load_config
from recipe.model.flops import flops_per_token
from recipe.model.heads import use_masked_only_head
from recipe.model.loading import build_model
from recipe.model.scale import activation_bytes, model_bytes, network_bytes, parameters, step_flops, tables


@pytest.mark.parametrize("name", ["roberta_tiny", "roberta_medium", "roberta_large", "bert_base"])
def test_parameters_and_flops_match_the_model(name):
    config = load_config(f"configs/{name}.json")
    with torch.device("meta"):
        model = build_model(config)
    assert parameters(config) == pytest.approx(model.num_parameters(), rel=1e-3)
    use_masked_only_head(model)
    masked = 77
    flops = step_flops(config, 1, 512, masked / 512)
    assert flops == pytest.approx(flops_per_token(model, 512, masked), rel=1e-6)


def test_memory_matches_a_training_step():
    """Peak memory that torch's profiler reports while a model is built and trained."""
    config = AutoConfig.for_model(
        **config_settings("roberta", 8192)
        | {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
        | {"max_position_embeddings": 130}
    )
    micro_batch, length, masked = 16, 128, 19
    ids = torch.randint(5, 8192, (micro_batch, length))
    positions = torch.arange(masked).expand(micro_batch, -1) * 6 + 1
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = use_masked_only_head(build_model(config)).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            model(ids, positions, ids.gather(1, positions))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)  # gradients stay allocated, as in accumulation
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    found = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    expected = model_bytes(config, stage=0, devices=1, bf16=False)
    expected += activation_bytes(config, micro_batch, length, bf16=False, mlm_probability=masked / length)
    print(f"measured {found / 1e6:.0f} MB, expected {expected / 1e6:.0f} MB")
    assert found == pytest.approx(expected, rel=0.15)


def test_zero_stages_partition_memory_and_add_traffic():
    config = load_config("configs/roberta_medium.json")
    count = parameters(config)
    assert model_bytes(config, 0, 8, bf16=False) == 16 * count
    assert model_bytes(config, 1, 1) == model_bytes(config, 3, 1) == 16 * count
    assert model_bytes(config, 3, 8) == 2 * count
    assert network_bytes(config, 0, 2) == 4 * count  # in a ring of two, each sends the whole buffer once
    assert network_bytes(config, 1, 2, accumulation=4) == 3 * count
    assert network_bytes(config, 2, 2, accumulation=4) == 9 * count
    assert network_bytes(config, 3, 2, accumulation=4) == 12 * count


def test_the_tables_list_every_stage():
    assert all(name in tables("configs/roberta_tiny.json") for name in ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "512"))


@pytest.mark.parametrize("name", ["configs/roberta_base.json", "configs/roberta_large.json"])
def test_docs_show_the_output_of_the_program(name):
    assert tables(name) in (REPOSITORY / "docs" / "scale.md").read_text()
