#!/usr/bin/env python3
"""Shows what a checkpoint puts into the blanks of a sentence, with probabilities.

python fill_mask.py runs/my_run/checkpoint-900 "Returns the <mask> of the array."
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoModelForMaskedLM

from recipe.arguments import HubArguments, option, parse
from recipe.errors import UserError, run_script
from recipe.fill import fill
from recipe.hub import is_local, require_hub, require_local_path
from recipe.quiet import quiet_libraries
from recipe.tokenizer import load_tokenizer


@dataclass
class FillArguments:
    """How many guesses."""

    top_k: int = option(5, "Guesses a blank.")


def main() -> None:
    options, hub, words = parse((FillArguments, HubArguments), description=__doc__, positional=("checkpoint", "text"))
    checkpoint, text = words
    quiet_libraries()
    require_local_path(checkpoint, "checkpoint")
    if not is_local(checkpoint):
        require_hub(f"model {checkpoint}", "a checkpoint's folder")
    if is_local(checkpoint) and not (Path(checkpoint) / "config.json").exists():
        raise UserError(f"found no config.json in {checkpoint}: expected a checkpoint's folder")
    tokenizer = load_tokenizer(checkpoint, **hub.hub_options())
    if tokenizer.mask_token not in text:
        raise UserError(f"found no blank in {text!r}: write {tokenizer.mask_token} where one is")
    try:
        model = AutoModelForMaskedLM.from_pretrained(checkpoint, **hub.hub_options())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load {checkpoint}: {str(error).splitlines()[0]}") from error
    for number, guesses in enumerate(fill(model, tokenizer, text, options.top_k), 1):
        print(f"blank {number}")
        for word, probability in guesses:
            print(f"  {probability:6.1%}  {word!r}")


if __name__ == "__main__":
    run_script(main)
