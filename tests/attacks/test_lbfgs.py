"""Box-constrained L-BFGS against the exact distances of linear models."""

import math

import pytest
import torch
from torch import nn

from digits_bed import fitted, quantile, ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("l2", math.inf)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1.001), (torch.float32, 1.001)])
def test_two_boxed_classes_are_solved_exactly(dtype, limit):
    """The minimisers for all c are the points clip(x + lam * v, 0, 1), so the smallest c that succeeds gives the radius."""
    p = problems.linear_boxed(dtype, n=6, classes=2)
    outcome = attack("lbfgs", Classifier(p.module), p.x, p.y, INF, search_steps=16)
    ratio = outcome.verdict.distance / p.radius["l2"]
    assert outcome.verdict.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= limit


def test_digits():
    """Ten classes: cross-entropy mixes them, so the exact radius is a lower bound only (mean 1.023, median 1.005)."""
    ratio, _ = ratios("lbfgs", "l2", 12)
    assert ratio.min() >= 1 - 1e-9
    assert quantile(ratio, 0.5) <= 1.02
    assert ratio.max() <= 1.4


def test_zero_and_one_of_the_digits_by_target():
    """The specification's case: digits 0 against 1 as a model of two classes, within 1 % of the exact radius."""
    weight, bias, x, y = fitted()
    layer = nn.Linear(64, 2, dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight[:2], bias[:2]
    rows = ((y < 2) & (layer(x).argmax(1) == y)).nonzero()[:8, 0]
    model, x, y = Classifier(layer.eval()), x[rows], y[rows]
    exact = problems.linear_distance("l2", weight[:2], bias[:2], x, y)
    by_target = attack("lbfgs", model, x, y, INF, targets=1 - y)
    untargeted = attack("lbfgs", model, x, y, INF)
    ratio = by_target.verdict.distance / exact
    assert by_target.verdict.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.01
    torch.testing.assert_close(by_target.verdict.distance, untargeted.verdict.distance, rtol=1e-3, atol=0)


def test_the_distance_does_not_grow_with_more_constants():
    p = problems.linear_boxed(n=4, classes=2)
    runs = [attack("lbfgs", Classifier(p.module), p.x, p.y, INF, search_steps=n).verdict for n in (5, 8, 14)]
    found = [torch.where(run.success, run.distance, math.inf) for run in runs]
    assert (found[1] <= found[0]).all()
    assert (found[2] <= found[1]).all()


def test_queries_are_bounded_for_each_constant():
    p = problems.linear_boxed(n=3, classes=3)
    result = attack("lbfgs", Classifier(p.module), p.x, p.y, INF, search_steps=4, queries=3).result
    assert (result.backward <= 12).all()
    assert torch.equal(result.forward, result.backward + 1)


def test_finite_radius():
    p = problems.linear_boxed(n=4, classes=2)
    radii = tuple((p.radius["l2"] * torch.tensor([0.5, 1.01] * 2)).tolist())
    outcome = attack("lbfgs", Classifier(p.module), p.x, p.y, ThreatModel("l2", radii))
    assert outcome.verdict.success.tolist() == [False, True] * 2


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_boxed(n=2)
    for facts in ({"search_steps": 0}, {"queries": 0}, {"initial_constant": math.inf}):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("lbfgs", Classifier(p.module), p.x, p.y, INF, **facts)
