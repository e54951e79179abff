#!/usr/bin/env python3
"""Pre-trains a causal language model: a decoder with the same configs, prepared tokens and training loop.

Takes the flags of the Hugging Face example script of the same name and all TrainingArguments, or one .json or .yaml
file with them. The same command again resumes from the newest complete checkpoint and ends with the same bits.

    python run_clm.py --config_name configs/roberta_tiny.json \\
        --tokenizer_name train --dataset_name docstrings --block_size 128 \\
        --do_train --do_eval --max_steps 500 --output_dir runs/first-clm

    python run_clm.py --config_name configs/roberta_small.json \\
        --tokenizer_name roberta-base --train_file my.txt --do_train \\
        --num_train_epochs 2 --learning_rate 5e-4 --output_dir runs/my-clm

Every token is predicted from those before it in its block, exactly once per epoch. A block begins with <s> or [CLS]; a
document ends with </s> or [SEP], which is predicted, too. eval_perplexity is exp(eval_loss).
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

from dataclasses import dataclass

from recipe.cli.parser import option, parse
from recipe.cli.program import run_script
from recipe.data.arguments import DataArguments
from recipe.model.arguments import ModelArguments
from recipe.system.runtime import join_xla_ranks
from recipe.train.arguments import PretrainArguments


@dataclass
class CausalArguments:
    """Flags that the example script of this name has in place of others."""

    block_size: int | None = option(None, "Tokens per block; another name of --max_seq_length.")
    keep_linebreaks: bool = option(True, "Keep line breaks inside a document of a .txt; off, they become spaces.")


def main() -> int:
    join_xla_ranks()
    model_args, data, causal, args = parse(
        (ModelArguments, DataArguments, CausalArguments, PretrainArguments), description=__doc__
    )
    data.max_seq_length = causal.block_size or data.max_seq_length
    from recipe.programs.clm import run  # after the flags are read: it imports the Trainer

    return run(model_args, data, causal.keep_linebreaks, args)


if __name__ == "__main__":
    run_script(main)
