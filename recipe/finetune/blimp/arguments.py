"""Command-line arguments of run_blimp.py."""

from dataclasses import dataclass

from recipe.cli.parser import option
from recipe.finetune.arguments import CheckpointArguments
from recipe.finetune.blimp.suite import BLIMP_HUB_ID
from recipe.system.errors import UserError


@dataclass
class BlimpArguments(CheckpointArguments):
    """Which checkpoint, and which minimal pairs."""

    blimp_data: str = option(
        BLIMP_HUB_ID,
        "Minimal pairs: a hub id, or a folder or file of JSON lines, csv or tsv with the columns sentence_good and "
        "sentence_bad and, if there are any, UID, field and linguistics_term.",
    )
    max_eval_samples: int | None = option(None, "Score only N pairs, of all paradigms alike; by default all.")

    within_word: bool = option(
        False,
        "Score masked models also with the later tokens of a word masked (Kauf and Ivanova, 2023); takes half as long "
        "again.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_eval_samples is not None and self.max_eval_samples < 1:
            raise UserError(f"found --max_eval_samples {self.max_eval_samples}, expected at least 1")

    @property
    def title(self) -> str:
        return "blimp"


@dataclass
class BlimpRun:
    """Where the results go, and what computes them."""

    output_dir: str = option("", "Folder of the results. Required.")
    batch_tokens: int = option(1024, "Tokens per batch; changes speed and memory alone.")
    use_cpu: bool = option(False, "Compute on the CPU, even if there is a GPU.")
    disable_tqdm: bool = option(False, "Show no progress.")

    def __post_init__(self):
        self.unused: list[str] = []
        if not self.output_dir:
            raise UserError("found no --output_dir: name the folder of the results")
        if self.batch_tokens < 1:
            raise UserError(f"found --batch_tokens {self.batch_tokens}, expected at least 1")
