"""One fine-tuning on a GLUE task or on one's own files, and its scores."""

import sys
from contextlib import nullcontext
from pathlib import Path

from recipe.finetune.arguments import check_start
from recipe.finetune.glue.arguments import FineTuneArguments, GlueArguments
from recipe.finetune.glue.finetuning import GlueTuning, prepare
from recipe.finetune.glue.submission import write_submission
from recipe.finetune.glue.suite import SUITE
from recipe.finetune.results import eval_results, result_file, write_metrics
from recipe.finetune.resume import start_or_resume
from recipe.system.errors import NONFINITE_EXIT_CODE, UserError
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import undo_on_failure
from recipe.train.trackers import select_trackers
from recipe.train.trainer import NonFiniteError


def run(data: GlueArguments, args: FineTuneArguments) -> int:
    """Does what the flags ask; returns the exit code. Raises UserError for mistakes."""
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    check(data, args)
    select_trackers(args, say)
    for sentence in args.unused:
        say(f"warning: {sentence}")

    with undo_on_failure(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        tuning = prepare(data, args, say)
        describe(tuning, say)
        return train_and_evaluate(tuning, say)


def train_and_evaluate(tuning: GlueTuning, say) -> int:
    """Trains, evaluates and predicts as asked; returns the exit code."""
    args = tuning.args
    try:
        if args.do_train:
            result = tuning.trainer.train(resume_from_checkpoint=start_or_resume(tuning, data_settings(tuning), say))
            tuning.save_trained(result.metrics)
        scores = tuning.evaluate() if args.do_eval else {}
        submissions = predict(tuning) if args.do_predict else []
    except NonFiniteError as error:
        say(f"error: {error}", file=sys.stderr)
        return NONFINITE_EXIT_CODE
    if args.should_save:
        save(tuning, scores, submissions)
    return 0


def check(data: GlueArguments, args: FineTuneArguments) -> None:
    """Raises UserError for mistakes that can be seen before any data is read."""
    check_start(data, args, "finetune_glue.sh")
    for split, requested in (("train", args.do_train), ("validation", args.do_eval), ("test", args.do_predict)):
        if data.own_files and requested and split not in data.own_files:
            flag = {"train": "train", "validation": "eval", "test": "predict"}[split]
            raise UserError(f"found --do_{flag} and files of your own, but no --{split}_file: pass one")


def describe(tuning: GlueTuning, say) -> None:
    """Prints model, task and schedule, and one example, which shows a wrong tokenizer at once."""
    sizes = ", ".join(f"{len(rows):,} {split}" for split, rows in tuning.rows.splits.items())
    say(tuning.describe_model())
    say(f"task       {tuning.data.title}: {sizes}")
    for line in tuning.describe_training("examples") if tuning.args.do_train else ():
        say(line)


def data_settings(tuning: GlueTuning) -> dict:
    """The data settings that determine what a run computes."""
    named = {name: getattr(tuning.data, name) for name in SUITE.settings}
    return named | {"task": tuning.data.title, "data": tuning.rows.splits["train"].digest}


def predict(tuning: GlueTuning) -> list[Path]:
    """Writes the predictions of each test split into two files: GLUE's submission, and that of the example script."""
    files = []
    for split in (split for split in tuning.rows.splits if split.startswith("test")):
        logits, _ = tuning.predict(tuning.examples(split), prefix="test")
        predictions = tuning.predictions(logits)
        folder = Path(tuning.args.output_dir)
        if not tuning.args.should_save:
            continue
        files += write_submission(folder, tuning.data.task, tuning.rows, split, predictions)
    return files


def save(tuning: GlueTuning, scores: dict, submissions: list[Path]) -> None:
    """Writes the record and prints its scores."""
    folder = Path(tuning.args.output_dir)
    for split, metrics in scores.items():
        size = tuning.record(scores)["examples"][split]
        part = f" (a subset: {size['used']:,} of {size['official']:,})" if size["subset"] else ""
        shown = ", ".join(f"{SUITE.metric_names.get(name, name)} {value:.4f}" for name, value in metrics.items())
        print(f"{tuning.data.title} {split}{part}: {shown}")
    if scores:
        samples = {split: len(tuning.rows.splits[split]) for split in scores}
        write_metrics(folder, "eval", eval_results(SUITE, scores, samples))
        file = result_file(folder, tuning.data.title, tuning.args.seed)
        write_json(file, tuning.record(scores))
        print(f"written to {file}")
    if tuning.args.do_train and tuning.args.save_model:
        print(f"model in {folder}")
        tuning.write_card(scores, print)
    for file in submissions:
        print(f"predictions in {file}")
