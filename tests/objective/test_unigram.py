"""The unigram baseline: probabilities and loss as computed by hand."""

import math

import numpy as np
import pytest
import torch

from recipe.objective.unigram import UnigramBaseline


def test_ordinary_tokens_have_their_smoothed_share_and_special_tokens_none():
    baseline = UnigramBaseline(np.array([3, 0, 90, 1]), special_ids=(2,))
    assert baseline.log_probabilities.exp().tolist() == pytest.approx([4 / 7, 1 / 7, 0, 2 / 7])
    loss, correct = baseline.score(torch.tensor([0, -100, 3, 0]))
    assert loss == pytest.approx(-2 * math.log(4 / 7) - math.log(2 / 7)) and correct == 2
