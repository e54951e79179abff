#!/usr/bin/env python3
"""Scores one checkpoint on minimal pairs (BLiMP), without training: in how many pairs does it find the acceptable
sentence likelier? Writes accuracies with standard errors, and every pair's scores. For masked and causal models.

    python run_blimp.py --model_name_or_path runs/first/checkpoint-500 \\
        --blimp_data path/to/blimp --output_dir runs/first/blimp-500

    python run_blimp.py --model_name_or_path roberta-base --output_dir out

Other minimal pairs, of another language for example, are files of the same two columns, sentence_good and
sentence_bad. Run the same command again after a stop: paradigms that are scored stay scored.
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun


def main() -> int:
    data, args = parse((BlimpArguments, BlimpRun), description=__doc__)
    from recipe.programs.blimp import run  # after the flags are read: it imports the Trainer

    return run(data, args)


if __name__ == "__main__":
    run_script(main)
