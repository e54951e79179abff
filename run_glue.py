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

import sys
from contextlib import nullcontext
from pathlib import Path

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.arguments import check_start
from recipe.finetune.continuing import begin_or_continue
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.glue.finetuning import GlueTuning, prepare
from recipe.finetune.glue.submission import write_predictions
from recipe.finetune.glue.suite import SUITE
from recipe.finetune.results import eval_results, result_file, write_metrics
from recipe.system.errors import NONFINITE_EXIT_CODE, UserError
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import undo_on_failure
from recipe.train.trackers import select_trackers
from recipe.train.trainer import NonFiniteError


def main() -> int:
    data, args = parse((GlueArguments, FineTuneArguments), description=__doc__)
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    check(data, args)
    select_trackers(args, say)
    for sentence in args.unused:
        say(f"warning: {sentence}")

    with undo_on_failure(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        work = prepare(data, args, say)
        describe(work, say)
        return carry_out(work, say)


def carry_out(work: GlueTuning, say) -> int:
    """Trains, evaluates and predicts as asked; returns the exit code."""
    args = work.args
    try:
        if args.do_train:
            result = work.trainer.train(resume_from_checkpoint=begin_or_continue(work, deciding(work), say))
            work.keep_trained(result.metrics)
        scores = work.evaluate() if args.do_eval else {}
        submissions = predict(work) if args.do_predict else []
    except NonFiniteError as error:
        say(f"error: {error}", file=sys.stderr)
        return NONFINITE_EXIT_CODE
    if args.should_save:
        save(work, scores, submissions)
    return 0


def check(data: GlueArguments, args: FineTuneArguments) -> None:
    """Raises UserError for mistakes that can be seen before any data is read."""
    check_start(data, args, "finetune_glue.sh")
    for split, doing in (("train", args.do_train), ("validation", args.do_eval), ("test", args.do_predict)):
        if data.own_files and doing and split not in data.own_files:
            flag = {"train": "train", "validation": "eval", "test": "predict"}[split]
            raise UserError(f"found --do_{flag} and files of your own, but no --{split}_file: pass one")


def describe(work: GlueTuning, say) -> None:
    """Prints model, task and schedule, and one example, which shows a wrong tokenizer at once."""
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in work.rows.splits.items())
    say(work.about_the_model())
    say(f"task       {work.data.title}: {sizes}")
    for line in work.about_the_training("examples") if work.args.do_train else ():
        say(line)


def deciding(work: GlueTuning) -> dict:
    """The data settings that determine what a run computes."""
    named = {name: getattr(work.data, name) for name in SUITE.settings}
    return named | {"task": work.data.title, "data": work.rows.splits["train"].digest}


def predict(work: GlueTuning) -> list[Path]:
    """Predicts every test split into two files: GLUE's submission format, and the example script's."""
    files = []
    for split in (split for split in work.rows.splits if split.startswith("test")):
        logits, _ = work.predict(work.examples(split), prefix="test")
        predictions = work.predictions(logits)
        folder = Path(work.args.output_dir)
        if not work.args.should_save:
            continue
        files += write_predictions(folder, work.data.task, work.rows, split, predictions)
    return files


def save(work: GlueTuning, scores: dict, submissions: list[Path]) -> None:
    """Writes the record and prints its scores."""
    folder = Path(work.args.output_dir)
    for split, metrics in scores.items():
        size = work.record(scores)["examples"][split]
        part = f" (a subset: {size['used']:,} of {size['official']:,})" if size["subset"] else ""
        shown = ", ".join(f"{SUITE.metric_names.get(name, name)} {value:.4f}" for name, value in metrics.items())
        print(f"{work.data.title} {split}{part}: {shown}")
    if scores:
        samples = {split: len(work.rows.splits[split]) for split in scores}
        write_metrics(folder, "eval", eval_results(SUITE, scores, samples))
        file = result_file(folder, work.data.title, work.args.seed)
        write_json(file, work.record(scores))
        print(f"written to {file}")
    if work.args.do_train and work.args.save_model:
        print(f"model in {folder}")
        work.write_card(scores, print)
    for file in submissions:
        print(f"predictions in {file}")


if __name__ == "__main__":
    run_script(main)
