#!/usr/bin/env python3
"""How far a document of a block moves the logits of another: plain attention, packed position ids, document attention.

    python benchmarks/documents.py                                       configs with fresh weights, masked and causal
    python benchmarks/documents.py runs/NAME/checkpoint-4000             trained models

Two documents share a block of 128 random tokens. The first is replaced by other tokens; the largest change of a logit
of the second is what leaks. The last column compares the second document's logits with those it has alone.
"""

import argparse
import sys
from pathlib import Path

import torch
from measuring import ROOT, markdown, publish

sys.path.insert(0, str(ROOT))

from recipe.model.config import is_causal, load_config, make_causal
from recipe.model.documents import document_inputs
from recipe.model.families import FAMILIES
from recipe.model.loading import build_model, load_model

CONFIGS = ("roberta_tiny", "bert_tiny", "modernbert_tiny")
LENGTH, BORDER = 128, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="checkpoints; by default configs with fresh weights")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    options = parser.parse_args()
    rows = [leaks(name, model.eval()) for name, model in models_of(options.models)]
    header = ("model", "plain attention", "packed position ids", "document attention", "to the document alone")
    publish("Largest change of a logit of another document", markdown(header, rows), rows, options.output)


def models_of(checkpoints: list[str]):
    """(name, model) of each checkpoint, or of each config and a causal one."""
    for checkpoint in checkpoints:
        yield checkpoint, load_model(checkpoint, load_config(checkpoint), print)
    for name in (*CONFIGS, "causal roberta_tiny") if not checkpoints else ():
        config = load_config(str(ROOT / "configs" / f"{name.split()[-1]}.json"))
        if name.startswith("causal"):
            config = make_causal(config, name)
        torch.manual_seed(0)
        yield f"{name}, fresh weights", build_model(config)


@torch.no_grad()
def leaks(name: str, model) -> tuple[str, ...]:
    """A row of the table."""
    generator = torch.Generator().manual_seed(1)
    vocabulary, config = model.config.vocab_size, model.config
    ids = torch.randint(10, vocabulary, (1, LENGTH), generator=generator)
    other = ids.clone()
    other[:, :BORDER] = torch.randint(10, vocabulary, (1, BORDER), generator=generator)
    numbers = (torch.arange(LENGTH) >= BORDER).long()[None]
    head, decoder = FAMILIES[config.model_type].head(model), model.get_output_embeddings()
    places = torch.arange(LENGTH)
    begin = FAMILIES[config.model_type].first_position(config)
    packed = {"position_ids": (places - BORDER * (places >= BORDER) + begin)[None]}
    uncached = {"use_cache": False} if is_causal(config) else {}

    def second(tokens, **inputs):
        return decoder(head(model.base_model(tokens, **uncached, **inputs)[0]))[0, -(LENGTH - BORDER) :]

    ours = document_inputs(model, numbers)
    moved = [(second(ids, **how) - second(other, **how)).abs().max().item() for how in ({}, packed, ours)]
    alone = (second(ids, **ours) - second(ids[:, BORDER:])).abs().max().item()
    return name, *(f"{value:.4f}" if value else "0" for value in moved), f"{alone:.1e}"


if __name__ == "__main__":
    main()
