"""The summary that a run prints at its end: metrics beside the unigram baseline, and sample predictions."""

from pathlib import Path

import numpy as np

from recipe.data.blocks import OrderedBlocks
from recipe.evaluate.continuation import continuations_of
from recipe.evaluate.fill_in import blanks_from
from recipe.model.config import first_position, is_causal
from recipe.model.metrics import shown_metrics
from recipe.train.deepspeed import unsharded_model


def report(metrics: dict, model, tokenizer, eval_data: OrderedBlocks, run: Path) -> None:
    """Prints the summary of a run: `metrics` beside the unigram baseline, predictions for three blanks, or three
    generated texts, from the validation data, and the next command."""
    print(
        f"\neval loss        {metrics['eval_loss']:.3f} nats   (unigram baseline {metrics['eval_unigram_loss']:.3f})\n"
        f"perplexity       {metrics['eval_perplexity']:.1f}"
    )
    baseline = f"   (unigram baseline {metrics['eval_unigram_accuracy']:.1%})"
    for title, value in shown_metrics(metrics).items():
        print(f"{title:15}  {value}{baseline if title in ('accuracy', 'masked accuracy') else ''}")
    print()
    spread = np.linspace(0, len(eval_data.blocks) - 1, num=12, dtype=np.int64)
    rows = eval_data.blocks.rows(np.unique(spread))
    model = unsharded_model(model, run)
    if is_causal(model.config):
        for prompt, continued in continuations_of(model, tokenizer, rows):
            print(f"  {prompt} |{continued}\n")
        print(f"The model is in {run}: AutoModelForCausalLM.from_pretrained opens it.")
        if first := first_position(model.config):
            print(f"Pass position_ids that start at {first} to its generate(), which would start at 0.")
        return
    for blank in blanks_from(model, tokenizer, rows):
        guesses = ", ".join(f"{word.strip() or word!r} {probability:.0%}" for word, probability in blank.guesses)
        print(f"  ... {blank.text} ...\n      {guesses}   (it was {blank.target})\n")
    print(f"The model is in {run}. Next, its GLUE scores beside those of fresh weights:")
    print(f'  RUN="{run} random:{run}" bash finetune_glue.sh')
