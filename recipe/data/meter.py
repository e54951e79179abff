"""How much of a source was read: bytes of its files, rows of a hub dataset."""

from dataclasses import dataclass

from recipe.system.progress import BYTES


@dataclass
class Meter:
    """Counts what the newest stream of a source has read, in `unit`; `total` is None where it isn't known."""

    total: int | None = None
    unit: str = BYTES
    done: float = 0

    def add(self, amount: float) -> None:
        """Counts `amount` more."""
        self.done += amount
