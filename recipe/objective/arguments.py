"""Arguments of the masked-language-modelling objective."""

from dataclasses import dataclass

from recipe.cli.numbers import require_numbers
from recipe.cli.parser import option
from recipe.system.errors import UserError


@dataclass
class ObjectiveArguments:
    """Masking options of the MLM objective."""

    mlm_probability: float = option(0.15, "Masking rate: share of the tokens of a block that are predicted.")
    mlm_probability_end: float | None = option(
        None,
        "Final masking rate: decays linearly from --mlm_probability, and is used for evaluation. By default constant.",
    )
    mask_replace_prob: float = option(0.8, "Share of the masked positions that get the mask token.")
    random_replace_prob: float = option(
        0.1, "Share of the masked positions that get a random token; the rest keep theirs."
    )
    objective_schedule: str | None = option(
        None,
        "Objectives and their shares of the steps, 'clm:0.5 mlm:0.5': clm predicts the next token from those before "
        "it, hybrid does so in one step of sixteen. By default mlm throughout.",
    )
    whole_word_mask: bool = option(False, "Mask whole words.")
    span_masking: bool = option(False, "Mask spans of tokens, or of words with --whole_word_mask.")
    span_p: float = option(0.2, "Parameter p of the span lengths: P(l) is proportional to p (1 - p)^(l - 1).")
    span_max_length: int = option(10, "Longest span, in tokens, or words with --whole_word_mask.")

    @property
    def final_mlm_probability(self) -> float:
        """The masking rate of the last step, which evaluation uses."""
        return self.mlm_probability if self.mlm_probability_end is None else self.mlm_probability_end

    def __post_init__(self):
        require_numbers(vars(self))
        if not 0 < self.final_mlm_probability <= self.mlm_probability:
            raise UserError(
                f"found --mlm_probability_end {self.mlm_probability_end}, expected more than 0 and at most "
                f"--mlm_probability, {self.mlm_probability}, which sets the shape of a batch"
            )
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise UserError(
                f"found --mask_replace_prob {self.mask_replace_prob} and --random_replace_prob "
                f"{self.random_replace_prob}, expected two shares of at most 1 together"
            )
