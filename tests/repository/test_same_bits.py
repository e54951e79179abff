"""tests/same_bits.py: what its hashes cover, and when it refuses to compare. Its runs, of three minutes, are not tested."""

import json
import sys

import pytest
import same_bits
import torch


def test_the_hash_covers_bits_names_shapes_and_types_but_not_the_order_of_keys():
    state = {"a": torch.arange(6.0).view(2, 3), "b": [{"lr": 0.1}, torch.tensor(3)]}
    same = {"b": [{"lr": 0.1}, torch.tensor(3)], "a": torch.arange(6.0).view(2, 3)}
    assert same_bits.digest(state) == same_bits.digest(same)
    flipped = torch.arange(6.0).view(2, 3).clone()
    flipped.view(torch.int32)[0, 0] ^= 1
    others = [
        state | {"a": flipped},
        state | {"a": torch.arange(6.0).view(3, 2)},
        state | {"a": torch.arange(6).view(2, 3)},
        state | {"b": [{"lr": 0.1 + 1e-17 + 1e-16}, torch.tensor(3)]},
        state | {"b": [{"lr": 0.1}]},
        {"A": state["a"], "b": state["b"]},
    ]
    assert len({same_bits.digest(value) for value in [state, *others]}) == 7


@pytest.mark.parametrize(
    ("change", "code", "says"), [({"torch": "1.0"}, 2, "create it again here"), ({}, 1, "weights differs")]
)
def test_comparison_needs_the_same_environment_and_ends_at_the_first_difference(
    tmp_path, monkeypatch, capsys, change, code, says
):
    hashes = {"weights": "0", "optimizer": "1", "losses": "2", "last loss": 3.0}
    before = {"environment": same_bits.environment() | change, "roberta": hashes, "bert": hashes}
    (tmp_path / "before.json").write_text(json.dumps(before))
    now = iter([("roberta", hashes), ("bert", hashes | {"weights": "9"}), ("never", {})])
    monkeypatch.setattr(same_bits, "runs", lambda folder: now)
    monkeypatch.setattr(sys, "argv", ["same_bits.py", "--compare", str(tmp_path / "before.json")])
    assert same_bits.main() == code
    assert says in capsys.readouterr().out
    assert code == 2 or next(now)[0] == "never"


def test_the_text_is_reproducible_and_english():
    paragraphs = same_bits.prose()
    assert paragraphs == same_bits.prose() and sum(map(len, paragraphs)) > same_bits.CHARACTERS
    assert sum(" the " in text for text in paragraphs) > len(paragraphs) / 2
