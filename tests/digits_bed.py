"""The digits test bed of the minimum-norm attacks: a linear model whose exact radii are known in every norm."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier


@cache
def fitted():
    data, labels = load_digits(return_X_y=True)
    fit = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(data[:1000] / 16, labels[:1000])
    return (
        torch.tensor(fit.coef_),
        torch.tensor(fit.intercept_),
        torch.tensor(data[1000:] / 16),
        torch.tensor(labels[1000:]),
    )


@cache
def digits(norm, n, dtype=torch.float64):
    """Return a classifier, the first ``n`` test digits that it gets right, their classes and exact radii."""
    weight, bias, x, y = fitted()
    layer = nn.Linear(64, 10, dtype=dtype)
    layer.weight.data, layer.bias.data = weight.to(dtype), bias.to(dtype)
    model = Classifier(layer.eval(), batch_size=1000)
    rows = (model.logits(x.to(dtype)).argmax(1) == y).nonzero()[:n, 0]
    radius = problems.linear_distance(norm, weight, bias, x[rows], y[rows])
    return model, x[rows].to(dtype), y[rows], radius


def ratios(name, norm, n, dtype=torch.float64, targets=None, **parameters):
    """Attack without a limit; return distance over exact radius, inf where no example was found, and the outcome."""
    model, x, y, radius = digits(norm, n, dtype)
    goals = None if targets is None else (y + targets) % 10
    outcome = attack(name, model, x, y, ThreatModel(norm, float("inf")), targets=goals, **parameters)
    found = torch.where(outcome.verdict.success, outcome.verdict.distance, torch.inf)
    return found / radius, outcome


def quantile(values, share):
    return float(torch.quantile(values, share))
