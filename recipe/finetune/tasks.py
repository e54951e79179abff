"""What the tasks of all suites share: fine-tuning settings, and how a table addresses a score."""

from dataclasses import dataclass

Column = tuple[str, str, str]  # (task, split, metric)


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning settings of a task: sequences per optimizer step, peak learning rate, epochs."""

    batch_size: int
    learning_rate: float
    epochs: float
