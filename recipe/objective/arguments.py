"""Arguments of the masked-language-modelling objective."""

from dataclasses import dataclass

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.system.errors import UserError


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
