"""What the scripts can be told: dataclasses whose help is the documentation, and the parser that reads them."""

import argparse
import difflib
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from recipe.argument_files import SUFFIXES, argv_of
from recipe.deepspeed_config import check_deepspeed
from recipe.encodings import check_encoding
from recipe.errors import UserError
from recipe.numbers import require_numbers
from recipe.old_flags import translate
from recipe.optimizers import MUON, muon_settings
from recipe.paths import require_paths
from recipe.schedules import WITHOUT_AN_END
from recipe.secrets import hide_arguments, remember
from recipe.settings import check_optimizer, check_settings
from recipe.stages import steps_for
from recipe.tables import QUOTING, check_delimiter
from recipe.world import announced_world, require_world, settle_device
from recipe.zero import avoid_compiling

TYPING_MISTAKE = 0.85  # how alike an unknown flag and the one that was meant are; below it, they only sound alike


def option(default, help_text: str, **more):
    """A dataclass field with a default and its documentation."""
    return field(default=default, metadata={"help": help_text, **more})


@dataclass
class HubArguments:
    """How names of the hub are resolved."""

    cache_dir: str | None = option(None, "Where downloads from the hub are kept.")
    model_revision: str = option("main", "Branch, tag or commit of a hub model and its tokenizer.")
    token: str | None = option(None, "Hub token; by default the one of `hf auth login`.")
    trust_remote_code: bool = option(False, "Run code that a hub repository brings. Off: only transformers' own.")

    def hub_options(self) -> dict:
        """Keyword arguments for from_pretrained."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class ModelArguments(HubArguments):
    """Which model and tokenizer."""

    model_name_or_path: str | None = option(None, "Checkpoint (hub id or folder) whose pre-training is continued.")
    config_name: str | None = option(None, "Config of a model from scratch: a file of configs/, a folder or a hub id.")
    model_type: str | None = option(None, "A model from scratch with its family's base config: roberta, bert ...")
    config_overrides: str | None = option(None, "Changes to the config: key=value,key=value.")
    dropout: float | None = option(None, "Every dropout of the encoder; by default the config's. 0 is off.")
    tokenizer_name: str | None = option(None, "Hub id or folder, or `train` for one of our own on the corpus.")
    use_fast_tokenizer: bool = option(True, "Only fast tokenizers are supported.")
    vocab_size: int = option(8192, "Size of a tokenizer that is trained here.")
    lowercase: bool = option(False, "Whether a tokenizer that is trained here lower-cases its text.")


@dataclass
class DataArguments:
    """Which text, and how it is cut."""

    dataset_name: str | None = option(
        None,
        "Hub id, file, folder, glob, .tar.gz or s3://..., gs://..., hf://...; `docstrings` is the built-in corpus.",
    )
    dataset_config_name: str | None = option(None, "Config of a hub dataset.")
    train_file: str | None = option(
        None, "Training text: .txt .jsonl .json .csv .tsv .parquet .arrow .py .md .html ...; text also .gz or .zst."
    )
    validation_file: str | None = option(None, "Validation text; without one, documents are split off.")
    text_column: str = option("text", "Column or JSON field that holds the text; a.b is the field b inside of a.")
    line_by_line: bool = option(
        False,
        "Each line of a text file is a document (by default: each blank-line paragraph of a .txt, the whole of a .py, "
        ".md, .html ...).",
    )
    text_encoding: str | None = option(
        None, "Encoding of text files that are not UTF-8 and have no byte-order mark: windows-1252, gb18030 ..."
    )
    csv_delimiter: str | None = option(None, "Separates the cells of .csv and .tsv; by default a comma and a tab.")
    csv_quoting: str = option(
        "auto",
        "minimal: quotes wrap cells; none: they are plain text; auto: minimal for .csv, where a cell that looks like "
        "several rows is refused, and none for .tsv.",
    )
    join_rows: bool = option(False, "Rows of token ids are pieces of one stream: only end tokens end a document.")
    validation_split_percentage: float = option(5.0, "Share of documents that are split off for validation.")
    prepared_dir: str = option("data", "Where prepared tokens and trained tokenizers are kept.")
    overwrite_cache: bool = option(False, "Prepare the tokens again.")
    preprocessing_num_workers: int | None = option(None, "Threads for tokenisation; by default every core.")
    max_seq_length: int = option(512, "Tokens a block, its begin and end token included.")
    pad_to_max_length: bool = option(False, "Accepted for scripts that set it: blocks always have the full length.")
    streaming: bool = option(False, "Accepted for scripts that set it: preparation streams in any case.")
    max_train_samples: int | None = option(None, "Use only this many training blocks, spread over the corpus.")
    max_eval_samples: int | None = option(None, "Use only this many validation blocks, spread over the split.")

    def ignored(self) -> list[str]:
        """A sentence for each flag that was given and changes nothing."""
        said = []
        if self.streaming:
            said.append("--streaming changes nothing: preparation streams in any case")
        if self.pad_to_max_length:
            said.append("--pad_to_max_length changes nothing: blocks are packed to the full length")
        local = self.train_file or Path(self.dataset_name or "").expanduser().exists()
        if self.dataset_config_name and (local or self.dataset_name == "docstrings"):
            said.append("--dataset_config_name changes nothing: it names a part of a hub dataset")
        return said

    def __post_init__(self):
        require_numbers(vars(self))
        if self.text_encoding is not None:
            check_encoding(self.text_encoding)
        if self.csv_delimiter is not None:
            check_delimiter(self.csv_delimiter)
        if self.csv_quoting not in QUOTING:
            raise UserError(f"found --csv_quoting {self.csv_quoting}, expected one of {', '.join(QUOTING)}")
        if self.preprocessing_num_workers:
            os.environ["RAYON_NUM_THREADS"] = str(self.preprocessing_num_workers)


@dataclass
class ObjectiveArguments:
    """What is hidden, and behind what."""

    mlm_probability: float = option(0.15, "Share of a block's tokens that are predicted.")
    mlm_probability_end: float | None = option(
        None, "The share at the last step, to which --mlm_probability falls step by step; evaluation goes by it, too."
    )
    mask_replace_prob: float = option(0.8, "Share of those that become the mask token.")
    random_replace_prob: float = option(0.1, "Share of those that become a random token; the rest stay.")
    whole_word_mask: bool = option(False, "Hide whole words.")
    span_masking: bool = option(False, "Hide spans of tokens, or of words with --whole_word_mask.")
    span_p: float = option(0.2, "Spans of length l have a weight of p * (1 - p)^(l - 1).")
    span_max_length: int = option(10, "The longest span.")

    @property
    def final_mlm_probability(self) -> float:
        """The share at the end of the run, which evaluation goes by."""
        return self.mlm_probability if self.mlm_probability_end is None else self.mlm_probability_end

    def __post_init__(self):
        require_numbers(vars(self))
        if not 0 < self.final_mlm_probability <= self.mlm_probability:
            raise UserError(
                f"found --mlm_probability_end {self.mlm_probability_end}, expected more than 0 and at most "
                f"--mlm_probability, {self.mlm_probability}, which decides the shape of a batch"
            )
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise UserError(
                f"found --mask_replace_prob {self.mask_replace_prob} and --random_replace_prob "
                f"{self.random_replace_prob}, expected two shares of at most 1 together"
            )


@dataclass
class PretrainArguments(TrainingArguments):
    """All of transformers' TrainingArguments, and the recipe's own."""

    global_batch_size: int | None = option(
        None,
        "Sequences an optimizer step on all devices together; gradient accumulation is derived from it. "
        "By default: micro-batch x accumulation x devices.",
    )
    short_seq_length: int | None = option(
        None, "Begin with sequences of so many tokens, a part of --max_seq_length, and as many more of them a step."
    )
    short_seq_share: float = option(0.9, "Share of the steps that have short sequences, if --short_seq_length is set.")
    batch_warmup_start: int | None = option(
        None, "Begin with so many sequences a step; they double in equal intervals up to the global batch."
    )
    batch_warmup_steps: int = option(0, "The step at which the global batch is reached.")
    save_at: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Steps to save after, beside --save_steps: 250 500 1000. --save_total_limit leaves these "
            "checkpoints alone."
        },
    )
    max_hours: float | None = option(
        None, "Train for so many hours and let the learning rate's schedule end there; ends earlier with --max_steps."
    )
    optim: str = option(TrainingArguments.optim, "transformers' names, or muon: Muon for hidden matrices, else AdamW.")
    peak_tflops: float | None = option(None, "The device's peak rate, for MFU, where its name isn't known.")
    nonfinite: str = option("stop", "What a NaN or infinite gradient does: stop the run, or skip the update.")
    allow_changed: str = option("", "Settings that may differ from the run that is resumed, separated by commas.")
    ddp_timeout: int = option(600, "Seconds after which a rank that hears nothing of another one stops.")
    logging_nan_inf_filter: bool = option(False, "Always off here: a loss that isn't finite must be seen.")
    # In-house loaders seek by themselves, so the Trainer must not skip batches one by one.
    ignore_data_skip: bool = option(True, "Always on here: the data seeks to the step that a run resumes at.")

    def __post_init__(self):
        if not self.output_dir:
            raise UserError("found no --output_dir: name the run's folder")
        require_numbers(vars(self))
        self.unused = check_settings(self, pretraining=True)
        world = announced_world()
        if world.size == 1 and torch.cuda.device_count() > 1 and not self.use_cpu:
            raise UserError(
                f"found {torch.cuda.device_count()} GPUs and one process: start one a GPU with bash pretrain.sh or "
                "torchrun, or choose one by CUDA_VISIBLE_DEVICES=0"
            )
        if self.global_batch_size is not None:
            if self.gradient_accumulation_steps != 1:
                raise UserError(
                    f"found --gradient_accumulation_steps {self.gradient_accumulation_steps} beside "
                    "--global_batch_size: accumulation is derived from the latter; leave the former out"
                )
            self.gradient_accumulation_steps = derive_accumulation(
                self.global_batch_size, self.per_device_train_batch_size, world.size
            )
        if self.nonfinite not in ("stop", "skip"):
            raise UserError(f"found --nonfinite {self.nonfinite}, expected stop or skip")
        if self.deepspeed and not self.do_train:
            self.deepspeed = None  # it splits an optimizer, and there is none; a checkpoint holds whole weights
            if os.environ.get("RANK", "0") == "0":
                print("warning: --deepspeed changes nothing without --do_train")
        if self.nonfinite == "skip" and self.deepspeed:
            raise UserError("found --nonfinite skip beside --deepspeed, which updates before anyone can look: use stop")
        if self.push_to_hub and "checkpoint" in str(getattr(self.hub_strategy, "value", self.hub_strategy)):
            raise UserError(
                f"found --hub_strategy {getattr(self.hub_strategy, 'value', self.hub_strategy)}: it would upload a "
                "checkpoint while it is being saved; use every_save or end"
            )
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every weight is used in every step; looking costs a pass
        self._check_stages()
        muon = self.optim == MUON
        if muon:
            muon_settings(self.optim_args)
            if self.deepspeed:
                raise UserError(
                    "found --optim muon beside --deepspeed: Muon needs matrices that ZeRO cuts up; set DS_CONFIG="
                )
            self.optim = TrainingArguments.optim  # a name that transformers knows, while it looks
        if self.deepspeed:
            check_deepspeed(self, world.size)
        settle_device(self, world)
        if self.use_cpu and self.deepspeed:
            avoid_compiling()
        super().__post_init__()
        require_world(self, world)
        if self.deepspeed:
            # Or ZeRO-3 would split the model while it is made, with other draws on every rank. The engine splits it.
            unset_hf_deepspeed_config()
        if muon:
            self.optim = MUON
        else:
            check_optimizer(self)

    def _check_stages(self) -> None:
        if self.max_hours is not None and self.short_seq_length is not None:
            raise UserError(
                "found --short_seq_length beside --max_hours: its share is one of the steps, whose number only time "
                "will tell; pass --max_steps in place of the latter"
            )
        if (self.batch_warmup_start is None) != (self.batch_warmup_steps == 0):
            raise UserError(
                f"found --batch_warmup_start {self.batch_warmup_start} and --batch_warmup_steps "
                f"{self.batch_warmup_steps}: pass both, the sequences to begin with and the step to reach the batch at"
            )
        if self.batch_warmup_start is not None:
            cuts = self.gradient_accumulation_steps * announced_world().size
            if self.batch_warmup_start % cuts:
                raise UserError(
                    f"found --batch_warmup_start {self.batch_warmup_start}, expected a multiple of {cuts}, "
                    "accumulation steps x devices: they stay, their micro-batches grow"
                )


def derive_accumulation(global_batch: int, micro_batch: int, devices: int) -> int:
    """Accumulation steps that make `global_batch` sequences of micro-batches on `devices`.

    Raises UserError, with the micro-batches that would do, where they don't divide.
    """
    if global_batch % (micro_batch * devices) == 0:
        return global_batch // (micro_batch * devices)
    if global_batch % devices:
        fitting = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        near = sorted(sorted(fitting, key=lambda n: abs(n - devices))[:4])
        lower = global_batch // devices * devices
        raise UserError(
            f"a global batch of {global_batch} sequences doesn't divide by {devices} devices: use "
            f"{', '.join(map(str, near))} devices, or a global batch of {lower or devices} or {lower + devices}"
        )
    share = global_batch // devices
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - micro_batch))[:4])
    raise UserError(
        f"a global batch of {global_batch} sequences on {devices} device{'s' * (devices > 1)} doesn't divide by a "
        f"micro-batch of {micro_batch}: micro-batches that do are {', '.join(map(str, near))}"
    )


def sequences_a_step(args: TrainingArguments) -> int:
    """The global batch: micro-batch x accumulation x devices."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def epochs_to_steps(args: TrainingArguments, blocks: int) -> int:
    """The optimizer steps of a run: max_steps, or what num_train_epochs over `blocks` comes to; with max_hours and no
    max_steps, as many as there is time for."""
    if args.max_steps > 0:
        return args.max_steps
    if args.max_hours:
        return WITHOUT_AN_END
    sequences = args.num_train_epochs * blocks
    return steps_for(sequences, sequences_a_step(args), args.batch_warmup_start, args.batch_warmup_steps)


class Parser(HfArgumentParser):
    """argparse answers a mistake with its whole usage; here it is one line. Numbers are checked as they are read, and
    what is unknown is refused before anything is built, unless `takes_more`."""

    takes_more = False

    def error(self, message):
        raise UserError(f"{message}: see --help")

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown and not self.takes_more:
            flag = unknown[0].split("=")[0]
            close = difflib.get_close_matches(flag, self.flags, n=1, cutoff=TYPING_MISTAKE)
            hint = f": did you mean {close[0]}?" if close else ": see --help"
            raise UserError(f"found the unknown flag {flag}{hint}")
        require_numbers(vars(namespace))
        require_paths(vars(namespace))
        return namespace, unknown

    @property
    def flags(self) -> set[str]:
        """All flags it knows, each with its dashes."""
        return {flag for action in self._actions for flag in action.option_strings}


def parse(
    dataclasses: tuple[type, ...],
    argv: list[str] | None = None,
    description: str = "",
    positional: tuple[str, ...] = (),
) -> tuple:
    """Reads the command line, or the one .json, .yaml or .yml file that it names, into instances of `dataclasses`.

    With names of `positional` arguments, a tuple of their values comes last; a name that ends in "..." takes one value
    or more, as a list. Old flags that mean what a flag of today means are taken, with a line that says so. Raises
    UserError for what is unknown or doesn't fit, with the right flag's name where that is known.
    """
    argv = sys.argv[1:] if argv is None else argv
    hide_arguments()
    remember(argv)
    parser = Parser(
        dataclasses, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in positional:
        parser.add_argument(name, nargs="+" if name.endswith("...") else None)
    if len(argv) == 1 and not positional and Path(argv[0]).suffix in SUFFIXES:
        argv = argv_of(Path(argv[0]), parser)
        remember(argv)
    argv = in_flags_of_today(argv, parser.flags)
    try:
        parsed = parser.parse_args_into_dataclasses(argv)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, OSError, ImportError, OverflowError, RuntimeError) as error:
        raise UserError(str(error).strip().replace("\n", " ")) from error
    if positional:
        *parsed, named = parsed
        parsed.append(tuple(getattr(named, name) for name in positional))
    return tuple(parsed)


def in_flags_of_today(argv: list[str], known: set[str]) -> list[str]:
    """`argv` with old flags under their names of today; the first process says which, once."""
    argv, said = translate(argv, known)
    for sentence in said if os.environ.get("RANK", "0") == "0" else ():
        _warn_once(sentence)
    return argv


@cache
def _warn_once(sentence: str) -> None:
    print(f"warning: {sentence}", flush=True)
