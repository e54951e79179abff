"""The baseline that a masked language model must beat: guessing by how often each token occurs in the training text."""

import numpy as np
import torch


class UnigramBaseline:
    """Predicts every hidden token from training counts [vocab], with one added to each (Laplace), specials left out."""

    def __init__(self, counts: np.ndarray, special_ids: tuple[int, ...]):
        smoothed = counts.astype(np.float64) + 1.0
        smoothed[list(special_ids)] = 0.0
        with np.errstate(divide="ignore"):
            self.log_probabilities = torch.from_numpy(np.log(smoothed / smoothed.sum()))
        self.most_frequent = int(smoothed.argmax())

    def score(self, labels: torch.Tensor) -> tuple[float, int]:
        """(summed cross-entropy in nats, correct guesses) over the labels that aren't -100."""
        counted = labels[labels >= 0].cpu()
        return -self.log_probabilities[counted].sum().item(), int((counted == self.most_frequent).sum())
