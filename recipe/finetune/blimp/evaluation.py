"""One job: a checkpoint's score of every minimal pair, the accuracies, and their standard errors."""

import csv
import io
import itertools
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from recipe.data.prepared_tokens import PREPARED, load_prepared
from recipe.data.tokenizer import fingerprint
from recipe.finetune.arguments import RANDOM
from recipe.finetune.blimp.arguments import BlimpArguments, BlimpRun
from recipe.finetune.blimp.likelihoods import PLAIN, Sentence, encode, likelihoods, one_thread_per_core
from recipe.finetune.blimp.pairs import Pairs, Paradigm, read_pairs
from recipe.finetune.blimp.suite import SUITE, field_metric
from recipe.finetune.outcomes import write_outcomes
from recipe.finetune.results import build_record
from recipe.finetune.starting_point import Origin, config_with, origin_of, tokenizer_of
from recipe.finetune.suite import NO_SEED
from recipe.model.config import is_causal, positions
from recipe.model.loading import build_model, load_model
from recipe.system.errors import UserError
from recipe.system.files import read_json, remove, write_atomically, write_json
from recipe.system.progress import Progress, hide_progress
from recipe.train.model_card import run_folder
from recipe.train.run_record import read_record

UNIGRAM = "unigram_accuracy"
DEFAULT_PREPARED = "data"  # of --prepared_dir
UNFINISHED = "paradigms"  # folder of the paradigms that are scored, until all are
IN_ALL = ("all", "")


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs whose acceptable sentence has the higher score, a tie counting one half, and its standard
    error, over `pairs` pairs."""

    pairs: int
    accuracy: float
    stderr: float


def outcomes_of(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """[pairs] of 1, 0.5 or 0: whether the acceptable sentence has the higher score, a tie counting one half."""
    return (good > bad) + 0.5 * (good == bad)


def accuracy(good: np.ndarray, bad: np.ndarray) -> Accuracy:
    """Of scores [pairs] of acceptable sentences and the others."""
    right = outcomes_of(good, bad)
    return Accuracy(len(right), float(right.mean()), float(right.std() / math.sqrt(len(right))))


@dataclass
class BlimpScores:
    """The model and the pairs of one job, and once evaluated the scores: {name of an accuracy: {paradigm: float64
    [2, pairs]}}, those of the acceptable sentences first."""

    data: BlimpArguments
    args: BlimpRun
    origin: Origin
    tokenizer: PreTrainedTokenizerFast
    model: PreTrainedModel
    pairs: Pairs
    unigrams: np.ndarray | None  # [vocabulary] log-probabilities; None where the training text is unknown
    began: float
    scores: dict[str, dict[str, np.ndarray]] | None = None

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores every pair. Each paradigm is kept as soon as it is scored: a job that was killed goes on after it."""
        self.scores = {}
        threads = one_thread_per_core() if self.model.device.type == "cpu" else None
        kept = self._kept_paradigms()
        hide_progress(self.args.disable_tqdm)
        with Progress(f"minimal pairs of {self.origin.name}", len(self.pairs), "pairs") as progress:
            for number, paradigm in enumerate(self.pairs.paradigms):
                file = kept / f"{number}.npz"
                found = _read_arrays(file)
                if found is None:
                    found = self._score(paradigm, threads)
                    write_atomically(file, _compressed(found))
                for name, scores in found.items():
                    self.scores.setdefault(name, {})[paradigm.name] = scores
                progress.update(len(paradigm.good))
        if threads:
            threads.shutdown()
        return {"validation": self._metrics()}

    def _score(self, paradigm: Paradigm, threads) -> dict[str, np.ndarray]:
        sentences = encode([*paradigm.good, *paradigm.bad], self.tokenizer, positions(self.model.config))
        found = likelihoods(
            self.model, self.tokenizer, sentences, self.args.batch_tokens, threads, self.data.within_word
        )
        if self.unigrams is not None:
            found[UNIGRAM] = np.array([_unigram_score(sentence, self.unigrams) for sentence in sentences])
        return {name: scores.reshape(2, -1) for name, scores in found.items()}

    def _kept_paradigms(self) -> Path:
        """The folder of paradigms that are scored; what another model or other pairs left there is deleted."""
        folder, about = Path(self.args.output_dir) / UNFINISHED, {
            "weights": self.origin.sha256 or self.origin.path, "tokenizer": fingerprint(self.tokenizer),
            "pairs": self.pairs.digest, "unigrams": self.unigrams is not None, "within_word": self.data.within_word,
        }  # fmt: skip
        if read_json(folder / "about.json") != about:
            remove(folder)
            folder.mkdir(parents=True)
            write_json(folder / "about.json", about)
        return folder

    def accuracies(self) -> dict[tuple[str, str], dict[str, Accuracy]]:
        """{(level, name): {name of an accuracy: it}} in all and of each field, phenomenon and paradigm."""
        assert self.scores is not None, "the pairs are evaluated first"
        groups: dict[tuple[str, str], list[str]] = {IN_ALL: [p.name for p in self.pairs.paradigms]}
        for level in ("field", "phenomenon", "name"):
            for paradigm in self.pairs.paradigms:
                if key := getattr(paradigm, level):
                    groups.setdefault((level.replace("name", "paradigm"), key), []).append(paradigm.name)
        return {
            key: {
                metric: accuracy(*np.concatenate([scores[name] for name in names], axis=1))
                for metric, scores in self.scores.items()
            }
            for key, names in groups.items()
        }

    def _metrics(self) -> dict[str, float]:
        found = self.accuracies()
        named = dict(found[IN_ALL]) | {
            field_metric(name): of[PLAIN] for (level, name), of in found.items() if level == "field"
        }
        metrics = {}
        for name, value in named.items():
            metrics |= {name: value.accuracy, f"{name}_stderr": value.stderr}
        return metrics

    def record(self, scores: dict[str, dict[str, float]]) -> dict:
        used, available = len(self.pairs), self.pairs.available
        size = {"used": used, "official": available, "subset": used < available, "file": self.pairs.source,
                "sha256": self.pairs.digest}  # fmt: skip
        return build_record(
            task="blimp",
            origin=self.origin,
            seed=NO_SEED,
            headline=PLAIN,
            scores=scores,
            sizes={"validation": size},
            source=self.data.blimp_data,
            settings={name: getattr(self.data, name) for name in SUITE.settings} | {"causal": self._is_causal},
            seconds=time.monotonic() - self.began,
        )

    @property
    def _is_causal(self) -> bool:
        return is_causal(self.model.config)

    def write_predictions(self, folder: Path) -> list[Path]:
        """accuracies.csv, every level with its standard errors, and scores.npz, <name of an accuracy>/<paradigm>:
        float32 [2, pairs] of log-likelihoods, those of the acceptable sentences first."""
        assert self.scores is not None, "the pairs are evaluated first"
        folder.mkdir(parents=True, exist_ok=True)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        names = list(self.scores)
        writer.writerow(["level", "name", "pairs", *(part for name in names for part in (name, f"{name}_stderr"))])
        for (level, name), of in self.accuracies().items():
            values = [f"{value:.6f}" for metric in names for value in (of[metric].accuracy, of[metric].stderr)]
            writer.writerow([level, name, of[PLAIN].pairs, *values])
        arrays = {f"{name}/{paradigm}": scores.astype(np.float32)
                  for name, of in self.scores.items() for paradigm, scores in of.items()}  # fmt: skip
        files = [folder / "accuracies.csv", folder / "scores.npz"]
        for file, content in zip(files, (table.getvalue().encode(), _compressed(arrays)), strict=True):
            write_atomically(file, content)
        remove(Path(self.args.output_dir) / UNFINISHED)
        return [*files, write_outcomes(folder, {"validation": self._outcomes()})]

    def _outcomes(self) -> dict[str, np.ndarray]:
        """Of each pair: 1 if its acceptable sentence has the higher score, 0.5 for a tie, 0 otherwise."""
        assert self.scores is not None, "the pairs are evaluated first"
        outcomes = {
            metric: np.concatenate([outcomes_of(*scores) for scores in of.values()])
            for metric, of in self.scores.items()
        }
        for field in dict.fromkeys(paradigm.field for paradigm in self.pairs.paradigms if paradigm.field):
            names = [paradigm.name for paradigm in self.pairs.paradigms if paradigm.field == field]
            parts = [outcomes_of(*self.scores[PLAIN][name]) for name in names]
            outcomes[field_metric(field)] = np.concatenate(parts)
        return outcomes


def prepare(data: BlimpArguments, args: BlimpRun, say: Callable[[str], None] = print) -> BlimpScores:
    """Loads and checks pairs, checkpoint and tokenizer. Raises UserError for invalid ones."""
    began = time.monotonic()
    origin = check_model(data)
    pairs = pairs_of(data)
    tokenizer = tokenizer_of(data, needs=())
    config = config_with(data, tokenizer)
    if data.model_name_or_path.startswith(RANDOM):
        torch.manual_seed(NO_SEED)
        model = build_model(config)
    else:
        model = load_model(data.model_name_or_path, config, say, **data.hub_options())
    on_accelerator = torch.accelerator.is_available() and not args.use_cpu
    torch.nn.Module.to(model.eval(), torch.accelerator.current_accelerator() if on_accelerator else "cpu")
    return BlimpScores(data, args, origin, tokenizer, model, pairs, _unigrams(data, tokenizer), began)


def check_model(data: BlimpArguments) -> Origin:
    """The checkpoint that `data` names. Raises UserError if its tokenizer doesn't fit, or has no mask token where the
    model is a masked one."""
    origin = origin_of(data)
    tokenizer = tokenizer_of(data, needs=())
    if not is_causal(config_with(data, tokenizer)) and tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of {data.model_name_or_path} has no mask token, which a masked model needs")
    return origin


def pairs_of(data: BlimpArguments) -> Pairs:
    """The pairs that `data` names. Raises UserError where they can't be read."""
    return _pairs(data.blimp_data, data.max_eval_samples, tuple(data.hub_options().items()))


@lru_cache(maxsize=2)
def _pairs(source: str, limit: int | None, options: tuple) -> Pairs:
    return read_pairs(source, limit, **dict(options))


def _unigrams(data: BlimpArguments, tokenizer: PreTrainedTokenizerFast) -> np.ndarray | None:
    """[vocabulary] log-probabilities of tokens in the training text of the run, with add-one smoothing; None where its
    prepared tokens aren't there."""
    folder = Path(data.model_name_or_path.removeprefix(RANDOM)).expanduser()
    if not folder.is_dir():
        folder = Path(data.tokenizer_name or "").expanduser()  # fresh weights of a config, with a run's tokenizer
    record = read_record(run_folder(folder))
    wanted, command = record.get("meaning", {}).get("data") or (), record.get("command", [])
    wanted = {wanted} if isinstance(wanted, str) else set(dict(wanted).values())  # of the sources of a mixture
    named = [value for flag, value in itertools.pairwise(command) if flag == "--prepared_dir"]
    counts = {}
    for described in sorted(Path([DEFAULT_PREPARED, *named][-1]).expanduser().glob(f"*/{PREPARED}")):
        fingerprint = (read_json(described) or {}).get("fingerprint")
        if fingerprint in wanted and fingerprint not in counts:
            with suppress(UserError):  # damaged, or the same tokens of another tokenizer
                counts[fingerprint] = load_prepared(described.parent, tokenizer).unigram_counts()
    if not wanted or counts.keys() != wanted:
        return None
    smoothed = np.sum(list(counts.values()), axis=0).astype(np.float64) + 1.0
    return np.log(smoothed / smoothed.sum())


def _unigram_score(sentence: Sentence, log_probabilities: np.ndarray) -> float:
    """The log-probability of its tokens, rounded once, so that two orders of the same tokens are a tie."""
    return math.fsum(log_probabilities[sentence.text_ids])


def _compressed(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of an .npz file."""
    buffer, of_any_name = io.BytesIO(), cast(dict, arrays)
    np.savez_compressed(buffer, **of_any_name)
    return buffer.getvalue()


def _read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(file) as stored:
            return {name: stored[name] for name in stored}
    except (OSError, ValueError, KeyError, EOFError):
        return None
