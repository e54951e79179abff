"""One fine-tuning on labelled words, and its scores."""

import sys
from contextlib import nullcontext
from pathlib import Path

from recipe.finetune.arguments import check_start
from recipe.finetune.ner.arguments import NerArguments, NerTrainingArguments
from recipe.finetune.ner.finetuning import NerTuning, prepare
from recipe.finetune.ner.suite import SUITE
from recipe.finetune.results import eval_results, result_file, write_metrics
from recipe.finetune.resume import start_or_resume
from recipe.system.errors import NONFINITE_EXIT_CODE
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import undo_on_failure
from recipe.train.trackers import guard_trackers, select_trackers
from recipe.train.trainer import NonFiniteError


def run(data: NerArguments, args: NerTrainingArguments) -> int:
    """Does what the flags ask; returns the exit code. Raises UserError for mistakes."""
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    check_start(data, args, "finetune_glue.sh")
    select_trackers(args, say)
    for sentence in args.unused:
        say(f"warning: {sentence}")

    with undo_on_failure(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        tuning = prepare(data, args, say)
        describe(tuning, say)
        return train_and_evaluate(tuning, say)


def describe(tuning: NerTuning, say) -> None:
    """Prints model, data and schedule, and one window, which shows a wrong tokenizer at once."""
    sizes = (f"{len(rows):,} {split}" for split, rows in tuning.rows.items())
    say(tuning.describe_model())
    say(f"data       {tuning.data.title}: {', '.join(sizes)} sentences, {len(tuning.names)} labels")
    for line in tuning.describe_training("windows") if tuning.args.do_train else ():
        say(line)


def train_and_evaluate(tuning: NerTuning, say) -> int:
    """Trains, evaluates and predicts as asked; returns the exit code."""
    args = tuning.args
    try:
        if args.do_train:
            guard_trackers(tuning.trainer)
            result = tuning.trainer.train(resume_from_checkpoint=start_or_resume(tuning, data_settings(tuning), say))
            tuning.save_trained(result.metrics)
        scores = tuning.evaluate() if args.do_eval else {}
        if args.do_predict:
            tuning.label("test")
    except NonFiniteError as error:
        say(f"error: {error}", file=sys.stderr)
        return NONFINITE_EXIT_CODE
    if args.should_save:
        save(tuning, scores)
    return 0


def data_settings(tuning: NerTuning) -> dict:
    """The data settings that determine what a run computes."""
    named = {name: getattr(tuning.data, name) for name in SUITE.settings}
    return named | {"data": tuning.rows["train"].digest}


def save(tuning: NerTuning, scores: dict) -> None:
    """Writes the record and the predicted labels, and prints the scores."""
    folder = Path(tuning.args.output_dir)
    for split, metrics in scores.items():
        size = tuning.record(scores)["examples"][split]
        part = f" (a subset: {size['used']:,} of {size['official']:,})" if size["subset"] else ""
        print(f"{tuning.data.title} {split}{part}: {', '.join(f'{n} {v:.4f}' for n, v in metrics.items())}")
        write_metrics(folder, "eval", eval_results(SUITE, scores, {split: len(tuning.rows[split])}))
        file = result_file(folder, tuning.data.title, tuning.args.seed)
        write_json(file, tuning.record(scores))
        print(f"written to {file}")
    if "test" in tuning.predictions:
        labelled = tuning.rows["test"].labels is not None
        metrics = {f"predict_{name}": value for name, value in tuning.score("test").items()} if labelled else {}
        write_metrics(folder, "predict", metrics | {"predict_samples": len(tuning.rows["test"])})
        if labelled:
            print(f"{tuning.data.title} test: {', '.join(f'{n[8:]} {v:.4f}' for n, v in metrics.items())}")
    if tuning.args.do_train and tuning.args.save_model:
        print(f"model in {folder}")
        tuning.write_card(scores, print)
    for file in tuning.write_predictions(folder):
        print(f"predictions in {file}")
