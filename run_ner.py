#!/usr/bin/env python3
"""Fine-tunes one checkpoint on named entities (WNUT-17, or labelled sentences of your own) with one seed. Writes the
model, the predicted labels, and precision, recall and F1 over entities as one JSON file.

Takes the flags of the Hugging Face example script of the same name and all TrainingArguments, or one .json or .yaml
file with them.

    python run_ner.py --model_name_or_path runs/first/checkpoint-500 \\
        --dataset_name path/to/wnut17 --do_train --do_eval \\
        --output_dir runs/first/ner

    python run_ner.py --model_name_or_path roberta-base \\
        --train_file train.conll --validation_file dev.conll \\
        --do_train --do_eval --output_dir runs/my-ner
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments


def main() -> int:
    data, args = parse((NerArguments, NerTrainingArguments), description=__doc__)
    from recipe.programs.ner import run  # after the flags are read: it imports the Trainer

    return run(data, args)


if __name__ == "__main__":
    run_script(main)
