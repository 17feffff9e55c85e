"""Carlini and Wagner's linf attack against closed forms."""

import math

import pytest
import torch

from digits_bed import quantile, ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("linf", math.inf)


def test_digits():
    """100 digits: mean 1.03, median 1.01, 95 % 1.15 (what is left is the wrong nearest class); none below 1."""
    ratio, outcome = ratios("cw_linf", "linf", 40, queries=600)
    assert ratio.min() >= 1 - 1e-9
    assert quantile(ratio, 0.5) <= 1.03
    assert ratio.mean() <= 1.06
    assert outcome.result.backward.max() <= 600


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_boxed_classes(dtype):
    """One convex problem for each threshold: the bisection ends within about its precision of the exact radius."""
    p = problems.linear_boxed(dtype, n=12, classes=2)
    outcome = attack("cw_linf", Classifier(p.module), p.x, p.y, INF, queries=1500)
    ratio = outcome.verdict.distance / p.radius["linf"]
    assert outcome.verdict.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.03


def test_the_threshold_falls_below_the_authors_floor():
    """The authors stop at 1/256; a smaller radius is found all the same."""
    p = problems.linear_binary("linf", n=4)
    near = p.x + (p.module[1].weight[1 - p.y] - p.module[1].weight[p.y]).detach().sign().view_as(p.x) * 0.048
    outcome = attack("cw_linf", Classifier(p.module), near, p.y, INF)
    assert outcome.verdict.success.all()
    assert (outcome.verdict.distance >= 0.002 * (1 - 1e-9)).all()
    assert (outcome.verdict.distance <= 0.0022).all()


def test_finite_radius():
    p = problems.linear_boxed(n=6, classes=2)
    radii = tuple((p.radius["linf"] * torch.tensor([0.5, 1.05] * 3)).tolist())
    outcome = attack("cw_linf", Classifier(p.module), p.x, p.y, ThreatModel("linf", radii))
    assert outcome.verdict.success.tolist() == [False, True] * 3


def test_hopeless_samples_leave_before_the_queries_are_spent():
    p = problems.constant(n=3)
    result = attack("cw_linf", Classifier(p.module), p.x, p.y, INF, steps=50).result
    assert torch.equal(result.x_adv, p.x)
    assert (result.forward < 1000).all()


def test_values_on_the_bounds_move():
    x = torch.zeros(1, 4, dtype=torch.float64)
    layer = torch.nn.Linear(4, 2, dtype=torch.float64)
    layer.weight.data = torch.tensor([[0.0] * 4, [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([0.5, 0.0], dtype=torch.float64)
    outcome = attack("cw_linf", Classifier(layer.eval()), x, torch.tensor([0]), INF)
    assert float(outcome.verdict.distance) == pytest.approx(0.25, rel=0.02)


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_binary("linf", n=2)
    for facts in ({"decrease": 1.0}, {"decrease": math.nan}, {"precision": 0.0}, {"queries": 0}, {"confidence": -1.0}):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("cw_linf", Classifier(p.module), p.x, p.y, INF, **facts)
