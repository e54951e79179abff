"""One checkpoint's scores on minimal pairs."""

from pathlib import Path

from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun
from recipe.finetune.blimp.evaluation import IN_ALL, BlimpScores, prepare
from recipe.finetune.blimp.likelihoods import PLAIN
from recipe.finetune.results import result_file, write_metrics
from recipe.finetune.suite import NO_SEED
from recipe.model.checkpoints import require_disk_space
from recipe.system.files import write_json
from recipe.system.runtime import quiet_libraries
from recipe.train.run_folder import undo_on_failure

TITLES = {PLAIN: "accuracy", "within_word_accuracy": "within-word", "unigram_accuracy": "unigram"}


def run(data: BlimpArguments, args: BlimpRun) -> int:
    """Does what the flags ask; returns the exit code. Raises UserError for mistakes."""
    quiet_libraries()
    folder = Path(args.output_dir)
    require_disk_space(folder)
    with undo_on_failure(folder):
        job = prepare(data, args)
        count = len(job.pairs.paradigms)
        print(f"model      {job.origin.path}", flush=True)
        print(f"pairs      {data.blimp_data}: {len(job.pairs):,} in {count} paradigm{'s' * (count != 1)}", flush=True)
    scores = job.evaluate()
    save(job, scores, folder)
    return 0


def save(job: BlimpScores, scores: dict, folder: Path) -> None:
    """Writes record, metrics and scores, and prints the accuracies."""
    print(f"\n{'':<32}{'pairs':>8}" + "".join(f"{TITLES[name]:>18}" for name in job.scores or ()))
    for (level, name), of in job.accuracies().items():
        if level == "paradigm" and len(job.pairs.paradigms) > 1:
            continue
        title = "in all" if (level, name) == IN_ALL else f"{level} {name}"
        values = "".join(f"{f'{100 * a.accuracy:.1f} ± {100 * a.stderr:.1f}':>18}" for a in of.values())
        print(f"{title:<32}{of[PLAIN].pairs:>8,}{values}")
    metrics = {f"blimp_{name}": value for name, value in scores["validation"].items()}
    write_metrics(folder, "blimp", metrics | {"blimp_pairs": len(job.pairs)})
    file = result_file(folder, "blimp", NO_SEED)
    write_json(file, job.record(scores))
    print(f"written to {', '.join(str(path) for path in (file, *job.write_predictions(folder)))}")
