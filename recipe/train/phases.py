"""The phases of a run: its steps in order, each part with its own data, length, masking rate, objective and learning
rate. They are read from a YAML file; without one, the flags of a run describe one phase, or two with short sequences
first.

    - {name: stable, share: 0.8, lr: 1}
    - {name: long, share: 0.1, lr: 1, max_seq_length: 512, rope_theta: 160000}
    - {name: decay, share: 0.1, lr: [1, 0], lr_shape: sqrt, data: "wiki/=1 books/=3", mlm_probability: 0.15}
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from recipe.data.mixtures import weights_of
from recipe.system.errors import UserError
from recipe.train.arguments import PretrainArguments
from recipe.train.schedules import LR_SHAPES

OBJECTIVES = ("mlm", "clm", "hybrid")
HYBRID_EVERY = 16  # one step in so many is causal (Charpentier and Samuel, "GPT or BERT: why not both?", 2024)


@dataclass(frozen=True)
class Phase:
    """Steps `first` to `last` - 1 of a run. What is None is as the flags say.

    `share` of the run or number of `steps` is what was asked for. `data` is a mixture, {dataset: weight}; `lr` the
    learning rate at its begin and end as shares of the peak; `rope_theta` the base of the rotary positions of layers
    with full attention.
    """

    name: str = ""
    share: float | None = None
    steps: int | None = None
    data: dict[str, float] | None = None
    max_seq_length: int | None = None
    mlm_probability: float | None = None
    mlm_probability_end: float | None = None
    objective: str | None = None
    lr: tuple[float, float] | None = None
    lr_shape: str = "linear"
    rope_theta: float | None = None
    first: int = field(default=0, metadata={"key": False})
    last: int = field(default=0, metadata={"key": False})

    def described(self) -> dict:
        """What determines the weights, without what is None, for the resume signature."""
        kept = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value for name, value in kept.items() if name not in ("name", "share", "steps")}


KEYS = tuple(one.name for one in fields(Phase) if one.metadata.get("key", True))


def phases_of(args: PretrainArguments, objective_schedule: str | None = None) -> list[Phase]:
    """The phases that the flags ask for, whose steps are not known yet; none for a run without. Raises UserError for
    both kinds at once, and for those of a run whose steps are not known in advance."""
    if objective_schedule is None:
        return read_phases(args.phases) if args.phases else []
    for name in ("phases", "max_hours", "short_seq_length"):
        if getattr(args, name) is not None:
            raise UserError(f"found --objective_schedule beside --{name}: leave one of them out")
    return phases_of_schedule(objective_schedule)


def require_causal_phases(phases: Sequence[Phase]) -> None:
    """Raises UserError for settings of phases that only the masked objective has."""
    for number, phase in enumerate(phases, 1):
        for name in ("objective", "mlm_probability", "mlm_probability_end"):
            if getattr(phase, name) is not None:
                raise UserError(
                    f"phase {number} has {name}, which run_clm.py doesn't use: leave it out, or use run_mlm.py"
                )


def read_phases(file: str) -> list[Phase]:
    """The phases of a YAML file, whose steps are not known yet. Raises UserError, with the phase, for anything else."""
    try:
        content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the phases of {file}: {error.strerror}: name a YAML file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content or not all(isinstance(one, dict) for one in content):
        raise UserError(f"{file} holds no list of phases, expected one like - {{name: stable, share: 0.9, lr: 1}}")
    phases = [_phase(one, f"phase {number} of {file}") for number, one in enumerate(content, 1)]
    _require_shares_or_steps(phases, file)
    if any(phase.lr for phase in phases) and not all(phase.lr for phase in phases):
        without = next(number for number, phase in enumerate(phases, 1) if not phase.lr)
        raise UserError(f"phase {without} of {file} has no lr, others have one: give each its own, such as lr: [1, 0]")
    return phases


def _phase(given: dict, where: str) -> Phase:
    if unknown := sorted(str(key) for key in set(given) - set(KEYS)):
        raise UserError(f"{where} has the unknown key {', '.join(unknown)}: expected some of {', '.join(KEYS)}")
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def require(key: str, valid: bool, expected: str) -> None:
        if key in values and not valid:
            raise UserError(f"{where} has {key} {values[key]}, expected {expected}")

    def number(key: str, low: float, high: float = float("inf")) -> bool:
        value = values.get(key)
        return isinstance(value, int | float) and not isinstance(value, bool) and low < value <= high

    for key, high in (("share", 1.0), ("mlm_probability", 1.0), ("mlm_probability_end", 1.0)):
        require(key, number(key, 0, high), "a number above 0 and at most 1")
    for key in ("steps", "max_seq_length"):
        require(key, number(key, 0) and isinstance(values[key], int), "a whole number of at least 1")
    require("rope_theta", number("rope_theta", 1), "a number above 1")
    require("objective", values.get("objective") in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}")
    require("lr_shape", values.get("lr_shape") in LR_SHAPES, f"one of {', '.join(LR_SHAPES)}")
    values["name"] = str(values.get("name", ""))
    if "lr" in values:
        ends = values["lr"] if isinstance(values["lr"], list) else [values["lr"]] * 2
        valid = len(ends) == 2 and all(isinstance(end, int | float) and 0 <= end <= 1 for end in ends)
        require("lr", valid, "a share of the peak from 0 to 1, or two: the one at its begin and the one at its end")
        values["lr"] = (float(ends[0]), float(ends[1]))
    if "data" in values:
        data = str(values["data"]).strip()
        require("data", bool(data), 'a dataset, or a mixture like "wiki/=1 books/=3"')
        values["data"] = weights_of(data) or {data: 1.0}
    return Phase(**values)


def phases_of_schedule(schedule: str) -> list[Phase]:
    """The phases of --objective_schedule, "clm:0.5 mlm:0.5": objectives and their shares of the steps."""
    phases = []
    for word in schedule.split():
        objective, _, share = word.partition(":")
        try:
            phases.append(Phase(name=objective, objective=objective, share=float(share)))
        except ValueError:
            phases = []
            break
    if not phases or any(phase.objective not in OBJECTIVES or not 0 < (phase.share or 0) <= 1 for phase in phases):
        raise UserError(
            f"found --objective_schedule {schedule!r}, expected objectives ({', '.join(OBJECTIVES)}) with their shares "
            'of the steps: "clm:0.5 mlm:0.5"'
        )
    _require_shares_or_steps(phases, "--objective_schedule")
    return phases


def _require_shares_or_steps(phases: Sequence[Phase], where: str) -> None:
    """Raises UserError unless all phases have steps, or all have shares that sum to 1."""
    shares = [phase.share for phase in phases if phase.share is not None]
    steps = [phase.steps for phase in phases if phase.steps is not None]
    if len(steps) == len(phases) and not shares:
        return
    if len(shares) != len(phases) or steps:
        raise UserError(f"the phases of {where} need either a share of the steps each, or steps each")
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares of the phases of {where} sum to {sum(shares):g}, expected 1")


def steps_of(phases: Sequence[Phase]) -> int | None:
    """The steps of all phases together; None where they have shares."""
    return sum(phase.steps or 0 for phase in phases) if phases[0].steps is not None else None


def with_steps(phases: Sequence[Phase], steps: int) -> list[Phase]:
    """The phases of a run of `steps` steps. Raises UserError where they don't add up to it, or one has no step."""
    total = steps_of(phases)
    if total not in (None, steps):
        raise UserError(
            f"the phases have {total:,} steps together, the run has {steps:,} (--max_steps): leave --max_steps out, or "
            "give the phases shares"
        )
    if total is None:
        edges = [round(share * steps) for share in itertools.accumulate(phase.share or 0.0 for phase in phases)]
    else:
        edges = list(itertools.accumulate(phase.steps or 0 for phase in phases))
    resolved = [
        replace(phase, first=a, last=b) for phase, (a, b) in zip(phases, itertools.pairwise([0, *edges]), strict=True)
    ]
    for number, phase in enumerate(resolved, 1):
        if phase.first == phase.last:
            raise UserError(f"phase {number} has no step: its share of {steps:,} steps is {phase.share:g}")
    return resolved


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of a step; for steps after the end, the last one."""
    return next((phase for phase in phases if step < phase.last), phases[-1])
