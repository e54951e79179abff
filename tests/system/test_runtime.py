"""The warning about slow bf16 appears only on CPUs known to lack the instructions."""

import pytest

from recipe.system.runtime import warning_of_slow_bf16


@pytest.mark.parametrize(
    "capabilities, slow",
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_bf16_warning_only_where_instructions_are_known_to_be_missing(capabilities, slow, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert bool(warning_of_slow_bf16()) is slow
