#!/usr/bin/env python3
"""Pre-trains a masked language model: one run, from text to checkpoints that plain transformers loads.

Takes the flags of the Hugging Face example script of the same name and all TrainingArguments, or one .json or .yaml
file with them. The same command again resumes from the newest complete checkpoint and ends with the same bits.

    python run_mlm.py --config_name configs/roberta_tiny.json \\
        --tokenizer_name train --dataset_name docstrings --max_seq_length 128 \\
        --do_train --do_eval --max_steps 500 --output_dir runs/first

    python run_mlm.py --model_name_or_path roberta-base --train_file my.txt \\
        --do_train --max_steps 2000 --learning_rate 1e-4 \\
        --output_dir runs/roberta-base-my
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.data.arguments import DataArguments
from recipe.model.arguments import ModelArguments
from recipe.objective.arguments import ObjectiveArguments
from recipe.system.runtime import join_xla_ranks
from recipe.train.arguments import PretrainArguments


def main() -> int:
    join_xla_ranks()
    model_args, data, objective, args = parse(
        (ModelArguments, DataArguments, ObjectiveArguments, PretrainArguments), description=__doc__
    )
    from recipe.programs.mlm import run  # after the flags are read: it imports the Trainer

    return run(model_args, data, objective, args)


if __name__ == "__main__":
    run_script(main)
