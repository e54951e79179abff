#!/usr/bin/env python3
"""Fine-tunes one checkpoint on one GLUE task, or on your own files, with one seed. Writes the model, and the scores
with their metrics, split and settings as one JSON file.

Takes the flags of the Hugging Face example script of the same name and all TrainingArguments, or one .json or .yaml
file with them. Batch size, learning rate and epochs default to the task's row in recipe/finetune/glue/tasks.py.

    python run_glue.py --model_name_or_path runs/first/checkpoint-500 \\
        --task_name cola --glue_data path/to/glue --do_train --do_eval \\
        --output_dir runs/first/cola

    python run_glue.py --model_name_or_path roberta-base \\
        --train_file train.csv --validation_file dev.csv --do_train --do_eval \\
        --num_train_epochs 3 --output_dir runs/my-classifier
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments


def main() -> int:
    data, args = parse((GlueArguments, FineTuneArguments), description=__doc__)
    from recipe.programs.glue import run  # after the flags are read: it imports the Trainer

    return run(data, args)


if __name__ == "__main__":
    run_script(main)
