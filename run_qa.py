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

import sys
from contextlib import nullcontext
from pathlib import Path

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.arguments import check_start
from recipe.finetune.continuing import begin_or_continue
from recipe.finetune.qa.arguments import QaArguments, QaTrainingArguments
from recipe.finetune.qa.finetuning import QaTuning, prepare
from recipe.finetune.qa.suite import SUITE
from recipe.finetune.results import eval_results, result_file, write_metrics
from recipe.system.errors import INTERRUPTED_EXIT_CODE, NONFINITE_EXIT_CODE
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import run_lock
from recipe.train.stopping import StopSignals
from recipe.train.trackers import guard_trackers, select_trackers
from recipe.train.trainer import NonFiniteError


def main() -> int:
    data, args = parse((QaArguments, QaTrainingArguments), description=__doc__)
    say = print if args.process_index == 0 else (lambda *_, **__: None)
    quiet_libraries()
    check_start(data, args, "finetune_qa.sh")
    select_trackers(args, say)
    for sentence in args.unused:
        say(f"warning: {sentence}")

    with run_lock(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        work = prepare(data, args, say)
        describe(work, say)
        return carry_out(work, say)


def describe(work: QaTuning, say) -> None:
    """Prints model, data and schedule, and one window, which shows a wrong tokenizer at once."""
    sizes = (f"{len(rows):,} {split}" for split, rows in work.rows.items())
    say(work.about_the_model())
    say(f"data       {work.data.title}: {', '.join(sizes)} questions")
    for split, windows in work.windows.items():
        cut = f", {windows.cut:,} questions cut" if windows.cut else ""
        say(f"windows    {split}: {len(windows):,} of at most {work.data.max_seq_length} tokens{cut}")
    for line in work.about_the_training("windows") if work.args.do_train else ():
        say(line)


def carry_out(work: QaTuning, say) -> int:
    """Trains, evaluates and predicts as asked; returns the exit code."""
    args = work.args
    signals = StopSignals()
    try:
        if args.do_train:
            if args.save_strategy != "no":
                work.trainer.add_callback(signals)
            guard_trackers(work.trainer)
            result = work.trainer.train(resume_from_checkpoint=begin_or_continue(work, deciding(work), say))
            if signals.received and work.trainer.state.global_step < args.max_steps:
                say(f"stopped by {signals.received.name}; run the same command again to continue")
                return INTERRUPTED_EXIT_CODE
            work.keep_trained(result.metrics)
        scores = work.evaluate() if args.do_eval else {}
        if args.do_predict:
            work.answer("test")
    except NonFiniteError as error:
        say(f"error: {error}", file=sys.stderr)
        return NONFINITE_EXIT_CODE
    if args.should_save:
        save(work, scores)
    return 0


def deciding(work: QaTuning) -> dict:
    """The data settings that determine what a run computes."""
    named = {name: getattr(work.data, name) for name in SUITE.settings}
    return named | {"data": work.rows["train"].digest}


def save(work: QaTuning, scores: dict) -> None:
    """Writes the record and the answers, and prints the scores."""
    folder = Path(work.args.output_dir)
    for split, metrics in scores.items():
        size = work.record(scores)["examples"][split]
        part = f" (a subset: {size['used']:,} of {size['official']:,})" if size["subset"] else ""
        print(f"{work.data.title} {split}{part}: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}")
        write_metrics(folder, "eval", eval_results(SUITE, scores, {split: len(work.windows[split])}))
        file = result_file(folder, work.data.title, work.args.seed)
        write_json(file, work.record(scores))
        print(f"written to {file}")
    if "test" in work.predictions:
        write_metrics(folder, "predict", {"predict_samples": len(work.windows["test"])})
    if work.args.do_train and work.args.save_model:
        print(f"model in {folder}")
        work.write_card(scores, print)
    for file in work.write_more(folder):
        print(f"answers in {file}")


if __name__ == "__main__":
    run_script(main)
