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
from recipe.data.blocks import Blocks
from recipe.data.tokenizer import block_ends
from recipe.evaluate.summary import report
from recipe.model.arguments import ModelArguments
from recipe.model.documents import require_masks
from recipe.model.heads import use_next_token_head
from recipe.objective.causal import NextTokens
from recipe.system.runtime import join_xla_ranks
from recipe.train.arguments import PretrainArguments
from recipe.train.phases import phases_of, require_causal_phases
from recipe.train.pretraining import pretrain
from recipe.train.rotary import require_rotary_positions
from recipe.train.sequences import Sequences, sequences_of
from recipe.train.setup import begin, config_of, model_of, prepare_text, with_objective
from recipe.train.signature import resume_signature


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
    say = begin(args, data)

    # From text to blocks. What can be known before step 1 is checked on the way.
    name, config = config_of(model_args)
    config = with_objective(config, name, True, model_args, args, say)
    if args.document_attention:
        require_masks(config, "--document_attention")
    phases = phases_of(args)
    require_causal_phases(phases)
    require_rotary_positions(config, phases)
    tokenizer, sources = prepare_text(model_args, data, name, config, say, causal.keep_linebreaks, phases)
    sequences = next_tokens(sources, tokenizer, data, args, phases)

    model = use_next_token_head(model_of(model_args, config, args.seed, say, tokenizer))
    signature = resume_signature(config, data, args, sources, sequences, tokenizer, {"objective": "clm"}, bool(phases))
    fresh = not model_args.model_name_or_path
    return pretrain(model, tokenizer, sources, sequences, args, signature, report, say, fresh)


def next_tokens(sources, tokenizer, data, args, phases=()) -> Sequences:
    """Training and evaluation data: blocks one token longer than the model's input, without an end token."""
    document_end = block_ends(tokenizer)[1] if args.document_attention else None

    def cut(tokens, length) -> Blocks:
        return Blocks(tokens, length + 1, (block_ends(tokenizer)[0], None), tokenizer.pad_token_id)

    def inputs(blocks, stages, phase, **order) -> NextTokens:
        return NextTokens(blocks, document_end=document_end, **order)

    return sequences_of(sources, data, args, phases, cut, inputs)


if __name__ == "__main__":
    run_script(main)
