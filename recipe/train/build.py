"""The trainer of a pre-training run, with its callbacks."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from recipe.data.sources import Sources
from recipe.data.tokenizer import block_ends
from recipe.model.config import is_causal
from recipe.objective.unigram import UnigramBaseline
from recipe.train.arguments import PretrainArguments
from recipe.train.callbacks import EpochEnds, JsonLog, Progress, RankSeed, SaveAt, SourceEpochs
from recipe.train.console import Console
from recipe.train.sequences import Sequences
from recipe.train.trackers import guard_trackers
from recipe.train.trainer import PretrainTrainer


def build_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sources,
    sequences: Sequences,
    args: PretrainArguments,
    callbacks: Iterable[TrainerCallback] = (),
) -> PretrainTrainer:
    """The trainer of a run in args.output_dir, with the unigram baseline, the logs and the console; `callbacks` come
    after those of the recipe."""
    # A causal model predicts the token that ends a document; a masked one predicts no special token.
    predicted = {block_ends(tokenizer)[1]} if is_causal(model.config) else set()
    tokens_per_epoch = len(sequences.train) * sequences.train.length
    counts = sources.unigram_counts(list(sequences.epochs(args.max_steps).values()))
    trainer = PretrainTrainer(
        model=model,
        args=args,
        train_dataset=sequences.train,
        phase_datasets=sequences.of_phases,
        source_names=sequences.names,
        eval_dataset=sequences.evaluation,
        stages=sequences.stages,
        processing_class=tokenizer,
        baseline=UnigramBaseline(counts, tuple(set(tokenizer.all_special_ids) - predicted)),
        callbacks=[
            Progress(sequences.stages, tokens_per_epoch),
            RankSeed(),
            SaveAt(args.save_at),
            EpochEnds(args, sequences.stages, tokens_per_epoch),
            *([SourceEpochs(sequences.epochs)] if len(sources) > 1 else []),
            JsonLog(Path(args.output_dir) / "log.jsonl"),
            *callbacks,
        ],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Console)
    guard_trackers(trainer)
    return trainer
