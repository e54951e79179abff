"""A metric of evaluation: one record reaches the heads' outputs, and everything that shows it knows its name and form."""

import math

import pandas as pd
import torch
from toy import config_settings
from transformers import AutoConfig

from recipe.model.heads import use_masked_only_head
from recipe.model.loading import build_model
from recipe.model.metrics import METRICS, Metric, shown_metrics


def reciprocal_rank(logits, labels):
    counted = labels >= 0
    better = (logits > logits.gather(1, labels.clamp(min=0).unsqueeze(1))).sum(1)
    return (counted / (1 + better)).sum()


def test_a_metric_is_summed_in_evaluation_alone_over_counted_labels(monkeypatch):
    monkeypatch.setitem(METRICS, "mean_reciprocal_rank", Metric(reciprocal_rank, form=".3f"))
    torch.manual_seed(0)
    plain = build_model(AutoConfig.for_model(**config_settings("roberta"))).eval()
    ids, positions = torch.randint(5, 300, (2, 16)), torch.tensor([[1, 5], [2, 3]])
    logits = plain(ids).logits[[0, 0, 1, 1], positions.flatten()]
    labels = logits.topk(2).indices[:, 1].view(2, 2)  # each label ranks second
    labels[1, 1] = -100
    model = use_masked_only_head(plain)
    outputs = model(ids, positions, labels)
    assert outputs["mean_reciprocal_rank"] == 1.5 and outputs["accuracy"] == 0
    assert set(model.train()(ids, positions, labels)) == {"loss"}


def test_they_are_shown_by_title_and_form(monkeypatch):
    monkeypatch.setitem(METRICS, "mean_reciprocal_rank", Metric(reciprocal_rank, form=".3f"))
    logs = {"eval_loss": 2.0, "eval_masked_accuracy": 0.125, "eval_masked_mean_reciprocal_rank": 0.25}
    shown = {"masked accuracy": "12.5%", "masked mean reciprocal rank": "0.250"}
    assert shown_metrics(logs) == shown_metrics(pd.Series(logs | {"eval_accuracy": math.nan})) == shown
    assert shown_metrics({"eval_accuracy": 0.5}) == {"accuracy": "50.0%"}
