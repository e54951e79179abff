"""One fine-tuning on questions and answers, and its scores."""

import sys
from contextlib import nullcontext
from pathlib import Path

from recipe.finetune.arguments import check_start
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.finetune.qa.finetuning import QaTuning, prepare
from recipe.finetune.qa.suite import SUITE
from recipe.finetune.results import eval_results, result_file, write_metrics
from recipe.finetune.resume import start_or_resume
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import run_lock
from recipe.train.stopping import StopSignals
from recipe.train.trackers import guard_trackers, select_trackers
from recipe.train.trainer import NonFiniteError


def run(data: QaArguments, args: QaTrainingArguments) -> int:
    """Does what the flags ask; returns the exit code. Raises UserError for mistakes."""
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    check_start(data, args, "finetune_qa.sh")
    select_trackers(args, say)
    for sentence in args.unused:
        say(f"warning: {sentence}")

    with run_lock(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        tuning = prepare(data, args, say)
        describe(tuning, say)
        return train_and_evaluate(tuning, say)


def describe(tuning: QaTuning, say) -> None:
    """Prints model, data and schedule, and one window, which shows a wrong tokenizer at once."""
    sizes = (f"{len(rows):,} {split}" for split, rows in tuning.rows.items())
    say(tuning.describe_model())
    say(f"data       {tuning.data.title}: {', '.join(sizes)} questions")
    for split, windows in tuning.windows.items():
        cut = f", {windows.cut:,} questions cut" if windows.cut else ""
        say(f"windows    {split}: {len(windows):,} of at most {tuning.data.max_seq_length} tokens{cut}")
    for line in tuning.describe_training("windows") if tuning.args.do_train else ():
        say(line)


def train_and_evaluate(tuning: QaTuning, say) -> int:
    """Trains, evaluates and predicts as asked; returns the exit code."""
    args = tuning.args
    signals = StopSignals()
    try:
        if args.do_train:
            if args.save_strategy != "no":
                tuning.trainer.add_callback(signals)
            guard_trackers(tuning.trainer)
            result = tuning.trainer.train(resume_from_checkpoint=start_or_resume(tuning, data_settings(tuning), say))
            if signals.received and tuning.trainer.state.global_step < args.max_steps:
                say(f"stopped by {signals.received.name}; run the same command again to continue")
                return INTERRUPTED_EXIT_CODE
            tuning.save_trained(result.metrics)
        scores = tuning.evaluate() if args.do_eval else {}
        if args.do_predict:
            tuning.answer("test")
    except NonFiniteError as error:
        say(f"error: {error}", file=sys.stderr)
        return NONFINITE_EXIT_CODE
    if args.should_save:
        save(tuning, scores)
    return 0


def data_settings(tuning: QaTuning) -> dict:
    """The data settings that determine what a run computes."""
    named = {name: getattr(tuning.data, name) for name in SUITE.settings}
    return named | {"data": tuning.rows["train"].digest}


def save(tuning: QaTuning, scores: dict) -> None:
    """Writes the record and the answers, and prints the scores."""
    folder = Path(tuning.args.output_dir)
    for split, metrics in scores.items():
        size = tuning.record(scores)["examples"][split]
        part = f" (a subset: {size['used']:,} of {size['official']:,})" if size["subset"] else ""
        shown = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        print(f"{tuning.data.title} {split}{part}: {shown}")
        write_metrics(folder, "eval", eval_results(SUITE, scores, {split: len(tuning.windows[split])}))
        file = result_file(folder, tuning.data.title, tuning.args.seed)
        write_json(file, tuning.record(scores))
        print(f"written to {file}")
    if "test" in tuning.predictions:
        write_metrics(folder, "predict", {"predict_samples": len(tuning.windows["test"])})
    if tuning.args.do_train and tuning.args.save_model:
        print(f"model in {folder}")
        tuning.write_card(scores, print)
    for file in tuning.write_predictions(folder):
        print(f"answers in {file}")
