#!/usr/bin/env python3
"""Fine-tunes one checkpoint on SQuAD, or on your own files, with one seed. Writes the model, the answers, and the
scores with their metrics, split and settings as one JSON file.

Takes the flags of the Hugging Face example script of the same name and all TrainingArguments, or one .json or .yaml
file with them. After a kill, the same command resumes from the newest checkpoint and ends with the same bits.

    python run_qa.py --model_name_or_path runs/first/checkpoint-500 \\
        --dataset_name path/to/squad --do_train --do_eval \\
        --output_dir runs/first/squad

    python run_qa.py --model_name_or_path roberta-base \\
        --version_2_with_negative --do_train --do_eval --learning_rate 3e-5 \\
        --output_dir runs/squad_v2
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments


def main() -> int:
    data, args = parse((QaArguments, QaTrainingArguments), description=__doc__)
    from recipe.programs.qa import run  # after the flags are read: it imports the Trainer

    return run(data, args)


if __name__ == "__main__":
    run_script(main)
