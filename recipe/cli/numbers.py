"""Valid ranges of all numeric flags, checked before anything is built."""

import math
from dataclasses import dataclass

from recipe.system.errors import UserError

MAX_SHOWN = 40  # characters of a value that a message repeats


@dataclass(frozen=True)
class Range:
    """Finite numbers of at least `least`, more than `above`, at most `most` and less than `below`. `also` lists further
    values with their special meanings. With `whole`, numbers of 1 or more must be whole."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: tuple[tuple[float, str], ...] = ()
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        if value in [special for special, _ in self.also]:
            return True
        if not (self.least <= value <= self.most and self.above < value < self.below):  # also rejects NaN
            return False
        return not (self.whole and value >= 1 and value != int(value))

    def __str__(self) -> str:
        bounds = (
            ("at least", self.least),
            ("more than", self.above),
            ("at most", self.most),
            ("less than", self.below),
        )
        words = " and ".join(f"{word} {bound:,}" for word, bound in bounds if math.isfinite(bound))
        words += ", and a whole number if 1 or more" if self.whole else ""
        return words + "".join(f", or {special} for {meaning}" for special, meaning in self.also)


def at_least(least: float, most: float = 10**12) -> Range:
    """From `least` to `most`, by default 10**12."""
    return Range(least=least, most=most)


STEPS = 10**9
SEQUENCES = 1 << 24  # in a global batch
SHARE = Range(least=0, most=1)
PROPER_SHARE = Range(above=0, below=1)
INTERVAL = Range(above=0, most=10**12, whole=True)  # in steps; below 1 as a share of the run
SEED = at_least(0, (1 << 32) - 1)  # the range that numpy's generator accepts
TOKENS = at_least(8, 1 << 20)
SAMPLES = at_least(1)
RATE = at_least(0, 1000)

NUMBERS: dict[str, Range] = {
    # transformers.TrainingArguments
    "per_device_train_batch_size": at_least(1, 1 << 20),
    "per_device_eval_batch_size": at_least(1, 1 << 20),
    "gradient_accumulation_steps": at_least(1, 1 << 20),
    "num_train_epochs": Range(above=0, most=10**6),
    "max_steps": Range(least=1, most=STEPS, also=((-1, "as many as --num_train_epochs takes"),)),
    "learning_rate": RATE,
    "warmup_steps": Range(least=0, most=STEPS, whole=True),
    "weight_decay": at_least(0, 1000),
    "adam_beta1": Range(least=0, below=1),
    "adam_beta2": Range(least=0, below=1),
    "adam_epsilon": Range(above=0, most=1),  # 0 makes the update of a weight without a gradient 0 / 0
    "max_grad_norm": at_least(0),  # 0: gradients are not clipped
    "label_smoothing_factor": Range(least=0, below=1),
    "neftune_noise_alpha": Range(above=0, most=1000),
    "torch_empty_cache_steps": at_least(1, STEPS),
    "logging_steps": INTERVAL,
    "eval_steps": INTERVAL,
    "save_steps": INTERVAL,
    "eval_delay": at_least(0),
    "eval_accumulation_steps": at_least(1, STEPS),
    "save_total_limit": Range(least=1, most=STEPS, also=((0, "no limit"), (-1, "no limit"))),
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": at_least(0, 1024),
    "dataloader_prefetch_factor": at_least(1, 1024),
    "ddp_bucket_cap_mb": at_least(1, 10**6),
    "ddp_timeout": at_least(1, 366 * 24 * 3600),
    "local_rank": at_least(-1, 1 << 20),
    # pre-training
    "global_batch_size": at_least(1, SEQUENCES),
    "short_seq_length": TOKENS,
    "short_seq_share": PROPER_SHARE,
    "batch_warmup_start": at_least(1, SEQUENCES),
    "batch_warmup_steps": at_least(0, STEPS),
    "save_at": at_least(1, STEPS),
    "max_hours": Range(above=0, most=10**6),
    "peak_tflops": Range(above=0, most=10**9),
    "ema_decay": Range(above=0, below=1),
    "dropout": Range(least=0, below=1),
    "mlm_probability": PROPER_SHARE,
    "mlm_probability_end": PROPER_SHARE,
    "mask_replace_prob": SHARE,
    "random_replace_prob": SHARE,
    "span_p": PROPER_SHARE,
    "span_max_length": at_least(1, 1 << 20),
    "block_size": TOKENS,
    # text, tokens and tokenizers
    "max_seq_length": TOKENS,
    "max_train_samples": SAMPLES,
    "max_eval_samples": SAMPLES,
    "max_predict_samples": SAMPLES,
    "preprocessing_num_workers": at_least(1, 1024),
    "mixture_temperature": Range(above=0, most=10**6),
    "validation_split_percentage": Range(above=0, below=100),
    "vocab_size": at_least(1, 1 << 21),
    "min_frequency": at_least(0, STEPS),
    "max_characters": at_least(1),
    "sample_share": Range(above=0, most=1),
    "held_out": Range(least=0, below=1),
    # fine-tuning
    "doc_stride": at_least(0, 1 << 20),
    "n_best_size": at_least(1, 1000),
    "max_answer_length": at_least(1, 1 << 20),
    "null_score_diff_threshold": Range(least=-(10**9), most=10**9),
    "seeds": SEED,
    "learning_rates": RATE,
    "batch_sizes": at_least(1, 1 << 20),
    "workers": at_least(1, 1024),
    # display
    "top_k": at_least(1, 1000),
    "max_checkpoints": at_least(0, 10**6),
}


def require_numbers(values: dict[str, object]) -> None:
    """Raises UserError for the first number out of range in `values`, {flag: value or list of values}."""
    for name, given in values.items():
        for value in given if isinstance(given, list | tuple) else (given,):
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            expected = NUMBERS.get(name)
            if expected is not None and value not in expected:
                raise UserError(f"found --{name} {_short(value)}, expected {expected}")


def _short(value: float) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
