"""The unigram baseline: predictions from token frequencies in the training text, which a trained model must beat."""

import numpy as np
import torch


class UnigramBaseline:
    """Predicts every token from training counts [vocabulary] with add-one (Laplace) smoothing, without
    `special_ids`."""

    def __init__(self, counts: np.ndarray, special_ids: tuple[int, ...]):
        smoothed = counts.astype(np.float64) + 1.0
        smoothed[list(special_ids)] = 0.0
        with np.errstate(divide="ignore"):
            self.log_probabilities = torch.from_numpy(np.log(smoothed / smoothed.sum()))
        self.most_frequent = int(smoothed.argmax())

    def score(self, labels: torch.Tensor) -> tuple[float, int]:
        """(summed cross-entropy in nats, number of correct predictions) over the labels that aren't -100."""
        counted = labels[labels >= 0].cpu()
        return -self.log_probabilities[counted].sum().item(), int((counted == self.most_frequent).sum())
