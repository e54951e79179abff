"""Settings that fit a text and a budget of time: RECIPE=auto of pretrain.sh.

The rule, fitted on results/ladder and on published findings; docs/data.md explains it:

- A ModernBERT, which learns far more than a RoBERTa of its size within minutes (results/ladder).
- The largest one that sees TOKENS_PER_WEIGHT tokens per weight of its encoder within the budget (Hoffmann et al., 2022,
  found 20 for causal models; of the ladder's sizes at the same time the best had 13 to 40), at a speed measured here.
- At most MOST_EPOCHS passes over the text: RoBERTa and BERT made about 40, and more bring little (Muennighoff et al.,
  2023). With more than FEW_EPOCHS, dropout is 0.1, as theirs, below it 0 (results/ladder).
- Masking rate 30 % (results/ladder; Wettig et al., 2023), batches of 32 sequences, doubled until the run has no more
  than MOST_STEPS steps, linear decay after 5 % of warm-up, and a peak learning rate by width.

    python -m recipe.train.auto --dataset_name my_text/ --hours 2

prints the settings as shell assignments, and why on stderr.
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedConfig, set_seed

from recipe.cli.parser import Parser, option
from recipe.cli.program import run_script
from recipe.data.arguments import DataArguments
from recipe.data.blocks import Blocks
from recipe.data.corpus import Corpus
from recipe.data.inputs import load_corpora
from recipe.data.prepared_tokens import load_prepared
from recipe.model.arguments import ModelArguments
from recipe.model.config import load_config
from recipe.model.heads import use_masked_only_head
from recipe.model.loading import build_model
from recipe.objective.masked_sequences import MaskedSequences
from recipe.objective.masking import Masking
from recipe.system.errors import UserError
from recipe.system.paths import ROOT
from recipe.system.runtime import has_fast_bf16, quiet_libraries
from recipe.system.units import count, time_span
from recipe.train.calibration import Conditions, calibrated
from recipe.train.plan import STEPS_PER_EPOCH, embedding_parameters
from recipe.train.run_record import RECORD, read_record

SIZES = ("tiny", "mini", "small", "medium", "base")
TOKENS_PER_WEIGHT = 20
MOST_EPOCHS, FEW_EPOCHS = 40, 10
MOST_STEPS = 8_000
LEAST_BATCH, MOST_BATCH = 32, 4096  # sequences; fewer where the text has less than STEPS_PER_EPOCH such batches
MASK_RATE = 0.3
WARMUP = 0.05  # of the run
EVALUATIONS = 8
BYTES_PER_TOKEN = 4  # about, of a vocabulary of 8,192 tokens and English text
SAMPLE_CHARACTERS = 20_000_000  # that are read to find how much text compressed files hold
CALIBRATION_SECONDS = 3.0  # per size
SHARED_SPEED = 0.875  # of a process on its own, where every core has one (1.75 times with two)


@dataclass(frozen=True)
class Shape:
    """Settings that follow from a model's width."""

    vocabulary: int
    length: int
    learning_rate: float


# 128 and 256: results/ladder. 768: ModernBERT-base (Warner et al., 2024); 512 lies between them.
SHAPES = {128: Shape(8192, 128, 3e-3), 256: Shape(8192, 128, 2e-3), 512: Shape(16384, 128, 1e-3)}
LARGE = Shape(32768, 512, 8e-4)
CONTINUED_LEARNING_RATE = 1e-4  # of a checkpoint that is trained further

# {flag: the variable of pretrain.sh that sets it}, for a run that has begun
FLAGS = {
    "--config_name": "MODEL",
    "--vocab_size": "VOCAB_SIZE",
    "--max_seq_length": "SEQ_LENGTH",
    "--global_batch_size": "GLOBAL_BATCH_SIZE",
    "--per_device_train_batch_size": "MICRO_BATCH_SIZE",
    "--max_steps": "MAX_STEPS",
    "--max_hours": "MAX_HOURS",
    "--warmup_steps": "WARMUP_STEPS",
    "--learning_rate": "PEAK_LR",
    "--mlm_probability": "MASK_RATE",
    "--dropout": "DROPOUT",
    "--save_steps": "SAVE_STEPS",
    "--eval_steps": "EVAL_STEPS",
    "--logging_steps": "LOGGING_STEPS",
    "--max_eval_samples": "EVAL_BLOCKS",
}


@dataclass
class AutoArguments:
    """The budget, and where the run will be."""

    hours: float = option(1.0, "Hours of training.")
    model: str | None = option(None, "A config or checkpoint, if it isn't to be chosen.")
    processes: int = option(1, "Processes of the run; on a CPU each has a core.")
    output_dir: str | None = option(None, "The run's folder: settings of a run that has begun there are kept.")


@dataclass(frozen=True)
class Choice:
    """A model, and what it can see within the budget."""

    name: str
    shape: Shape
    weights: int  # of the encoder, without embeddings
    speed: float  # tokens per second of all processes together

    def tokens(self, hours: float, corpus: float) -> float:
        """Tokens that it is trained on."""
        return min(self.speed * hours * 3600, MOST_EPOCHS * corpus)


def main() -> int:
    parser = Parser((AutoArguments, DataArguments, ModelArguments), description=__doc__)
    parser.passes_unknown = True
    auto, data, hub, _ = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    quiet_libraries()
    if auto.hours <= 0:
        raise UserError(f"found --hours {auto.hours:g}, expected more than 0")
    if auto.output_dir and (begun := settings_of(Path(auto.output_dir))):
        print(f"auto       the settings that {auto.output_dir} was begun with", file=sys.stderr)
        settings = begun
    else:
        corpus = sum(map(corpus_tokens, load_corpora_quietly(data, hub)))
        settings = choose(auto, corpus, Path(data.prepared_dir))
    for name, value in settings.items():
        if not os.environ.get(name):
            print(f"{name}={shlex.quote(str(value))}")
    return 0


def settings_of(run: Path) -> dict[str, str]:
    """The settings of pretrain.sh that the run in this folder was begun with; {} if there is none."""
    words = read_record(run).get("command", []) if (run / RECORD).exists() else []
    return {FLAGS[flag]: value for flag, value in pairwise(words) if flag in FLAGS}


def load_corpora_quietly(data: DataArguments, hub: ModelArguments) -> Iterable[Corpus]:
    """The corpus, or the sources of a mixture that are trained on; which files they consist of is printed by the
    run."""
    rank = os.environ.get("RANK")
    os.environ["RANK"] = "1"
    try:
        corpora = load_corpora(data, hub)
        return [corpus for dataset, corpus in corpora.items() if data.weights.get(dataset, 1.0) > 0]
    finally:
        os.environ.pop("RANK") if rank is None else os.environ.update(RANK=rank)


def corpus_tokens(corpus: Corpus) -> float:
    """About how many training tokens a corpus has: exactly if it is prepared, else by the bytes of its text.

    Compressed files are counted by the share of them that the first SAMPLE_CHARACTERS take.
    """
    if corpus.prepared:
        return load_prepared(corpus.prepared).splits["train"]["tokens"]
    characters = read = 0
    for document in corpus.train.documents():
        characters += len(document)
        read += len(document) if corpus.train.tokenised else len(document.encode(errors="replace"))
        if characters >= SAMPLE_CHARACTERS:
            break
    meter = corpus.train.meter
    whole = read * meter.total / meter.done if meter.total and meter.done else read
    return max(1.0, whole if corpus.train.tokenised else whole / BYTES_PER_TOKEN)


def choose(auto: AutoArguments, corpus: float, folder: Path) -> dict[str, object]:
    """The settings for a corpus of so many tokens, as variables of pretrain.sh; prints why on stderr."""

    def say(line: str) -> None:
        print(f"auto       {line}", file=sys.stderr, flush=True)

    say(f"about {count(corpus)} tokens of text, {auto.hours:g} hours, {auto.processes} processes")
    chosen = None
    for choice in choices(auto, folder):
        tokens = choice.tokens(auto.hours, corpus)
        enough = tokens >= TOKENS_PER_WEIGHT * choice.weights
        say(
            f"{Path(choice.name).stem}: {count(choice.speed)} tokens/s here, would see {count(tokens)} tokens = "
            f"{tokens / choice.weights:.0f} per weight{'' if enough else ', too few'}"
        )
        if chosen is None or enough:
            chosen = choice
        if not enough:
            break
    if chosen is None:
        raise UserError(f"found no model to choose from for {auto.model}")
    return settings_for(auto, chosen, corpus, say)


def choices(auto: AutoArguments, folder: Path) -> Iterator[Choice]:
    """The models to choose from, smallest first, each measured when it is asked for."""
    names = [auto.model] if auto.model else [str(ROOT / "configs" / f"modernbert_{size}.json") for size in SIZES]
    for name in names:
        config = load_config(name)
        shape = SHAPES.get(config.hidden_size, LARGE if config.hidden_size > 512 else SHAPES[256])
        length = int(os.environ.get("SEQ_LENGTH") or shape.length)
        if name.endswith(".json"):
            config.vocab_size = int(os.environ.get("VOCAB_SIZE") or shape.vocabulary)
        weights, speed = measure_model(config, length, auto.processes, folder)
        yield Choice(os.path.relpath(name) if name.endswith(".json") else name, shape, weights, speed)


def measure_model(config: PreTrainedConfig, length: int, processes: int, folder: Path) -> tuple[int, float]:
    """(weights of the encoder, tokens per second of all processes) of a model, measured here on random tokens."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_seed(0)
    model = use_masked_only_head(build_model(config))
    ids = np.random.default_rng(0).integers(10, config.vocab_size, 64 * length).astype(np.uint32)
    masking = Masking(config.vocab_size, 4, 1, (0, 1, 2, 3, 4), seed=0, mlm_probability=MASK_RATE)
    data = MaskedSequences(Blocks(ids, length, (0, 2), pad_id=1), masking, order_seed=0)
    micro = LEAST_BATCH if device.type == "cuda" else max(1, LEAST_BATCH // processes)
    conditions = Conditions(device, micro, bf16=has_fast_bf16(device), evaluates=False)
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu" and processes > 1:
            torch.set_num_threads(1)
        measured = calibrated(model, data, conditions, folder, CALIBRATION_SECONDS)
    finally:
        torch.set_num_threads(threads)
    seconds = measured.sequence_seconds + measured.update_seconds / micro
    shared = SHARED_SPEED if processes > 1 else 1.0
    return model.num_parameters() - embedding_parameters(model), processes * shared * length / seconds


def settings_for(auto: AutoArguments, choice: Choice, corpus: float, say) -> dict[str, object]:
    """The settings for the model that was chosen."""
    shape, continued = choice.shape, not choice.name.endswith(".json")
    length = int(os.environ.get("SEQ_LENGTH") or shape.length)
    tokens = choice.tokens(auto.hours, corpus)
    batch = LEAST_BATCH
    while batch < MOST_BATCH and tokens / (batch * length) > MOST_STEPS:
        batch *= 2
    while batch > 1 and corpus / (batch * length) < STEPS_PER_EPOCH:
        batch //= 2
    batch = int(os.environ.get("GLOBAL_BATCH_SIZE") or batch)
    steps = max(1, int(tokens / (batch * length)))
    epochs, seconds = tokens / corpus, tokens / choice.speed
    limit = max(1, int(MOST_EPOCHS * corpus / (batch * length)))
    often = max(1, steps // EVALUATIONS)
    settings: dict[str, object] = {
        "MODEL": choice.name,
        "VOCAB_SIZE": shape.vocabulary,
        "SEQ_LENGTH": length,
        "GLOBAL_BATCH_SIZE": batch,
        "MAX_HOURS": f"{auto.hours:g}",
        "MAX_STEPS": limit,
        "WARMUP_STEPS": WARMUP,
        "PEAK_LR": CONTINUED_LEARNING_RATE if continued else shape.learning_rate,
        "DROPOUT": "" if continued else 0.1 if epochs > FEW_EPOCHS else 0,
        "MASK_RATE": 0.15 if continued else MASK_RATE,
        "SAVE_STEPS": often,
        "EVAL_STEPS": often,
        "LOGGING_STEPS": max(1, min(100, steps // 100)),
        "EVAL_BLOCKS": min(4096, max(100, int(0.15 * steps * batch / EVALUATIONS))),  # a twentieth of the time
    }
    say(f"chosen: {choice.name}, {count(choice.weights)} weights beside the embeddings")
    say(f"about {steps:,} steps of {batch} x {length} tokens = {epochs:.1f} epochs in {time_span((seconds, seconds))}")
    if seconds < 0.95 * auto.hours * 3600:
        say(f"the text is seen {MOST_EPOCHS} times by then: more time would bring little, more text would")
    return settings


if __name__ == "__main__":
    run_script(main)
