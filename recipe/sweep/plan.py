"""What a sweep has to do: its flags, the models they name, and a job for each (checkpoint, task, seed)."""

import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from recipe.cli.parser import Parser, option, parse, with_current_flags
from recipe.finetune.arguments import RANDOM, SETTINGS
from recipe.finetune.results import RESULTS
from recipe.finetune.starting_point import damage_of
from recipe.finetune.suite import NO_SEED, Suite
from recipe.finetune.suites import SUITES, default_suite, select
from recipe.launch.ray_cluster import require_ray
from recipe.model.checkpoints import checkpoints, step_of
from recipe.report.trackers import TRACKERS
from recipe.sweep.executors import ENGINES
from recipe.sweep.jobs import Job
from recipe.system.errors import UserError
from recipe.system.hub import is_local
from recipe.system.secrets import redact_argv

# The tasks that --mnli_init is about.
FROM_MNLI = [name for suite in SUITES.values() for name, task in suite.tasks.items() if task.starts_from]


@dataclass
class SweepArguments:
    """Which jobs to run, and how."""

    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "Run folders, checkpoints, hub ids, or random:configs/x.json for fresh weights. Required."},
    )
    tasks: list[str] = field(
        default_factory=lambda: list(default_suite().default_tasks),
        metadata={
            "help": "GLUE tasks and .yaml files with tasks of your own; or squad or squad_v2; or blimp; or wnut17."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "Fine-tuning seeds: one job per (checkpoint, task, seed)."}
    )
    learning_rates: list[float] = field(
        default_factory=list, metadata={"help": "Learning rates; by default the task's. Several make a grid."}
    )
    batch_sizes: list[int] = field(
        default_factory=list, metadata={"help": "Batch sizes; by default the task's. Several make a grid."}
    )
    mnli_init: bool = option(
        False, f"Start {', '.join(FROM_MNLI)} from the MNLI model of the same checkpoint and seed."
    )
    newest: bool = option(False, "Of each run folder, evaluate only the newest complete checkpoint.")
    watch: bool = option(False, "Wait for the checkpoints of a running pre-training, until the last one is evaluated.")
    engine: str = option("processes", f"What runs the jobs: {' or '.join(ENGINES)}.")
    workers: int = option(1, "Worker processes per GPU (in total where there is none).")
    results_dir: str | None = option(None, "Folder of the results; by default glue or qa in the first run folder.")
    report_to: str = option(
        "none",
        f"none or {', '.join(TRACKERS)}: draws the scores in the pre-training's run. W&B also gets a run per job.",
    )
    allow_changed: str = option(
        "", "Settings that may differ from those of the results in the folder, separated by commas."
    )

    suite: Suite = field(init=False)  # of its tasks; it has those of the user's own too

    def __post_init__(self):
        if not self.runs:
            raise UserError("found no RUN (--runs): name a run's folder, a checkpoint, a hub id or random:CONFIG.json")
        self.suite, self.tasks = select(self.tasks)
        if self.engine not in ENGINES:
            raise UserError(f"found ENGINE {self.engine}, expected {' or '.join(ENGINES)}")
        if self.engine == "ray":
            require_ray()
        if self.report_to not in ("none", *TRACKERS):
            raise UserError(f"found --report_to {self.report_to}, expected none or {' or '.join(TRACKERS)}")
        if not self.suite.trains and (len(self.seeds) > 1 or self.learning_rates or self.batch_sizes or self.mnli_init):
            raise UserError(
                f"found --seeds, --learning_rates, --batch_sizes or --mnli_init: {self.suite.title} trains nothing: "
                "leave them out"
            )
        if self.mnli_init:
            starts = [self.suite.tasks[task].starts_from for task in self.tasks]
            self.tasks += dict.fromkeys(start for start in starts if start and start not in self.tasks)

    @property
    def folder(self) -> Path:
        """Where results lie."""
        if self.results_dir:
            return Path(self.results_dir).expanduser()
        local = [
            Path(run).expanduser()
            for run in self.runs
            if Path(run).expanduser().is_dir() or (self.watch and is_awaited(run))
        ]
        if not local:
            return Path("runs") / self.suite.name
        return (local[0].resolve().parent if step_of(local[0]) >= 0 else local[0]) / self.suite.name


def parse_sweep(argv: list[str], description: str = "") -> tuple[SweepArguments, list[str]]:
    """The sweep's own flags, and the rest, for run_glue.py or run_qa.py, which is checked with the first job."""
    redact_argv()
    parser = Parser((SweepArguments,), description=description)
    parser.passes_unknown = True
    try:
        sweep, rest = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
    if any(part.split("=")[0] == "--save_model" for part in rest):
        raise UserError(
            f"found --save_model: a sweep keeps scores, not the models of its jobs; leave it out, and use "
            f"{sweep.suite.script} for a model"
        )
    return sweep, with_current_flags(rest, Parser(sweep.suite.arguments()).flags)


# ---- which checkpoints


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate: its name in tables, and what --model_name_or_path takes."""

    name: str
    source: str


def is_awaited(run: str) -> bool:
    """Whether `run` is a path where nothing is yet, not a hub id: it is in runs/ or in another folder that exists."""
    folder = Path(run).expanduser()
    if run.startswith(RANDOM) or folder.exists():
        return False
    return is_local(run) or ("/" in run and folder.parent.is_dir())


def candidates(runs: list[str], newest: bool = False) -> tuple[list[Candidate], dict[str, str]]:
    """The models that `runs` name, and of the checkpoints in run folders that aren't whole, {folder: what is wrong}.
    A run's folder stands for its checkpoints, or for the `newest` whole one alone; random:FOLDER for their config.

    Raises UserError for a path that isn't there, a folder without a model, or two models of one name.
    """
    found: list[Candidate] = []
    damaged: dict[str, str] = {}
    for run in runs:
        folder = Path(run.removeprefix(RANDOM)).expanduser()
        if run.startswith(RANDOM):
            if not folder.exists():
                raise UserError(f"found no model config at {folder}: expected one of configs/*.json after {RANDOM}")
            name = folder.resolve().name if folder.is_dir() else folder.stem
            if folder.is_dir() and not (folder / "config.json").exists() and (steps := checkpoints(folder)):
                run = f"{RANDOM}{steps[-1]}"  # a run that isn't over has its config in its checkpoints
            found.append(Candidate(f"{RANDOM}{name}", run))
        elif not is_local(run):
            found.append(Candidate(run, run))
        elif not folder.is_dir():
            raise UserError(f"found no folder {run}: expected a run, a checkpoint, a hub id or random:CONFIG.json")
        elif step_of(folder) >= 0:
            found.append(Candidate(_name(folder), run))
        elif steps := checkpoints(folder):
            whole: list[Candidate] = []
            for step in reversed(steps):
                if reason := damage_of(step):
                    damaged[str(step)] = reason
                    continue
                whole.append(Candidate(_name(step), str(step)))
                if newest:
                    break
            found += reversed(whole)
        elif (folder / "config.json").exists():
            found.append(Candidate(folder.resolve().name, run))
        else:
            raise UserError(f"{run} holds neither checkpoint-N nor config.json: expected a run's folder or a model's")
    unique: dict[str, Candidate] = {}
    for model in found:
        other = unique.setdefault(model.name, model)
        if Path(other.source).resolve() != Path(model.source).resolve():
            raise UserError(f"{model.source} and {other.source} would both be called {model.name}: rename one folder")
    return list(unique.values()), damaged


def _name(checkpoint: Path) -> str:
    checkpoint = checkpoint.resolve()
    return f"{checkpoint.parent.name}/{checkpoint.name}"


# ---- which jobs


class Planner:
    """Makes the jobs of models, and checks each model and each task's data once on the way."""

    def __init__(self, sweep: SweepArguments, rest: list[str], models: list[Candidate]):
        self.sweep, self.rest = sweep, rest
        self.tokenizer = _spare_tokenizer(rest, models)
        self.suite = sweep.suite
        # The longest first, MNLI before the tasks that start from its model.
        self.tasks = sorted(dict.fromkeys(sweep.tasks), key=lambda task: self.suite.tasks[task].cost, reverse=True)
        self.costs: dict[str, float] = {}
        self.unused: list[str] = []  # a sentence for each setting that changes nothing

    def jobs_of(self, model: Candidate) -> list[Job]:
        """Its jobs, those that others wait for first. Raises UserError for what the script would refuse."""
        sweep, seeds = self.sweep, self.sweep.seeds if self.suite.trains else [NO_SEED]
        rates, batches = sweep.learning_rates or [None], sweep.batch_sizes or [None]
        grid = len(rates) * len(batches) > 1
        sha256 = self._check_model(model)
        jobs: list[Job] = []
        starts = {task.starts_from for task in self.suite.tasks.values()} if sweep.mnli_init else set()
        started: dict[tuple, Job] = {}
        for task, seed, rate, batch in product(self.tasks, seeds, rates, batches):
            points = [("learning_rate", rate), ("per_device_train_batch_size", batch)]
            chosen = [(flag, value) for flag, value in points if value is not None]
            variant = " ".join(f"{flag} {value:g}" for flag, value in chosen) if grid else ""
            variant = variant.replace("per_device_train_batch_size", "batch")
            folder = sweep.folder / RESULTS / _slug(model.name) / _slug(variant)
            argv = [*self._argv(model, task, folder), *(("--seed", str(seed)) if self.suite.trains else ())]
            job = Job(
                checkpoint=model.name,
                sha256=sha256,
                task=task,
                seed=seed,
                argv=tuple(argv + [part for flag, value in chosen for part in (f"--{flag}", str(value))]),
                folder=str(folder),
                cost=self._cost(model, task),
                task_identity=self.suite.tasks[task].identity,
                variant=variant,
                saves_model=task in starts,
                needs=started.get((self.suite.tasks[task].starts_from, seed, variant)),
                tracker=_tracker(sweep, model) if sweep.report_to == "wandb" else None,
            )
            if job.saves_model:
                started[task, seed, variant] = job
            jobs.append(job)
        return jobs

    def _argv(self, model: Candidate, task: str, folder: Path) -> list[str]:
        tokenizer = self.tokenizer if model.source.startswith(RANDOM) else []
        return [
            *("--model_name_or_path", model.source, "--checkpoint_name", model.name, *tokenizer),
            *(*self.suite.task_flags(task), *self.suite.job_flags, "--output_dir", str(folder)),
            *self.rest,
            *self.suite.final_flags,
        ]

    def _check_model(self, model: Candidate) -> str | None:
        """The sha256 of its weights, once tokenizer and length are known to fit."""
        data, args = parse(self.suite.arguments(), self._argv(model, self.tasks[0], self.sweep.folder))
        self.unused = args.unused
        return self.suite.check_model(data).sha256

    def _cost(self, model: Candidate, task: str) -> float:
        """Examples that a job processes; reading them validates the task's data."""
        if task not in self.costs:
            self.costs[task] = self.suite.cost(
                *parse(self.suite.arguments(), self._argv(model, task, self.sweep.folder))
            )
        return self.costs[task]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def _spare_tokenizer(rest: list[str], models: list[Candidate]) -> list[str]:
    """Fresh weights have no tokenizer: unless one is named they take that of the first checkpoint beside them."""
    if "--tokenizer_name" in rest:
        return []
    return next((["--tokenizer_name", m.source] for m in models if not m.source.startswith(RANDOM)), [])


def _tracker(sweep: SweepArguments, model: Candidate) -> dict:
    return {"group": model.name.split("/")[0].removeprefix(RANDOM), "folder": str(sweep.folder)}


def shared_settings(sweep: SweepArguments, rest: list[str]) -> dict:
    """The settings that all numbers of a folder share: they decide what its table means."""
    suite = sweep.suite
    probe = ["--model_name_or_path", "x", *suite.task_flags(sweep.tasks[0]), "--output_dir", str(sweep.folder)]
    data, args = parse(suite.arguments(), [*rest, *probe])
    of_the_data = {name: getattr(data, name) for name in suite.settings}
    if not suite.trains:
        return of_the_data
    return {
        **of_the_data,
        **{name: getattr(args, name) for name in SETTINGS.split()},
        "optim": str(getattr(args.optim, "value", args.optim)),
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "learning_rates": sweep.learning_rates,
        "batch_sizes": sweep.batch_sizes,
        "mnli_init": sweep.mnli_init,
    }
