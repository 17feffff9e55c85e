"""The elastic-net attack against the fractional knapsack, which is exact in l1 on linear models."""

import math

import pytest
import torch

from digits_bed import quantile, ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("l1", math.inf)
FAST = {"steps": 300, "search_steps": 6}


def test_digits():
    """200 digits at the defaults: mean 1.050, median 1.006; none below 1."""
    ratio, _ = ratios("ead", "l1", 30)
    assert ratio.min() >= 1 - 1e-9
    assert quantile(ratio, 0.5) <= 1.02
    assert ratio.mean() <= 1.12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_boxed_classes(dtype):
    p = problems.linear_boxed(dtype, n=12, classes=2)
    outcome = attack("ead", Classifier(p.module), p.x, p.y, INF, **FAST)
    ratio = outcome.verdict.distance / p.radius["l1"]
    assert outcome.verdict.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= 1.05
    assert ratio.max() <= 1.25


def test_examples_are_sparse():
    """Shrinking leaves most values where they were, bit for bit; without it l2's solution moves nearly all."""
    p = problems.linear_boxed(n=12, classes=2)
    sparse = attack("ead", Classifier(p.module), p.x, p.y, INF, **FAST).result.x_adv
    dense = attack("ead", Classifier(p.module), p.x, p.y, INF, **{**FAST, "shrinkage": 1e-9}).result.x_adv
    assert ((sparse != p.x).flatten(1).sum(1) <= 24).all()
    assert (dense != p.x).flatten(1).sum(1).double().mean() > 2 * (sparse != p.x).flatten(1).sum(1).double().mean()


def test_finite_radius():
    p = problems.linear_boxed(n=6, classes=2)
    radii = tuple((p.radius["l1"] * torch.tensor([0.5, 1.3] * 3)).tolist())
    outcome = attack("ead", Classifier(p.module), p.x, p.y, ThreatModel("l1", radii), **FAST)
    assert outcome.verdict.success.tolist() == [False, True] * 3


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_boxed(n=2)
    for facts in ({"steps": 0}, {"shrinkage": 0.0}, {"confidence": -1.0}):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("ead", Classifier(p.module), p.x, p.y, INF, **facts)
