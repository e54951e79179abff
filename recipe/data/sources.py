"""The prepared tokens of a run's sources: one, or those of a mixture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipe.data.mixtures import require_shares, shares_of
from recipe.data.prepared_tokens import PreparedTokens


@dataclass(frozen=True)
class Sources:
    """The sources of a run, in the order in which they are named first. `datasets` has them as they were named, `names`
    their short names for plan, log and metrics."""

    datasets: tuple[str, ...]
    names: tuple[str, ...]
    prepared: tuple[PreparedTokens, ...]

    def __len__(self) -> int:
        return len(self.prepared)

    @property
    def folder(self) -> Path:
        """The folder of prepared tokens, that of the first source of a mixture."""
        return self.prepared[0].folder

    @property
    def fingerprint(self) -> str | dict[str, str]:
        """Identifies the tokens; those of a mixture by dataset."""
        if len(self) == 1:
            return self.prepared[0].fingerprint
        return {dataset: source.fingerprint for dataset, source in zip(self.datasets, self.prepared, strict=True)}

    def tokens(self, split: str) -> list[int]:
        """The number of tokens of each source."""
        return [source.splits[split]["tokens"] for source in self.prepared]

    def shares(self, weights: Mapping[str, float], temperature: float | None) -> tuple[int, ...]:
        """The turns of each source (recipe.data.mixtures) for `weights`, {dataset: weight}, each multiplied by the
        number of the source's tokens to the power of 1 / `temperature` if there is one. Raises UserError as
        `require_shares`."""
        power = 1 / temperature if temperature else 0.0
        weighed = {
            dataset: weights.get(dataset, 0.0) * float(size) ** power
            for dataset, size in zip(self.datasets, self.tokens("train"), strict=True)
        }
        require_shares(weighed)
        return shares_of(list(weighed.values()))

    def unigram_counts(self, epochs: list[float]) -> np.ndarray:
        """[vocabulary] the occurrences of each id in the training tokens, those of a source of a mixture in proportion
        to how often it is seen, `epochs`."""
        if len(self) == 1:
            return self.prepared[0].unigram_counts()
        most = max(epochs)
        counts = [source.unigram_counts() * (seen / most) for source, seen in zip(self.prepared, epochs, strict=True)]
        return np.sum(counts, axis=0)
