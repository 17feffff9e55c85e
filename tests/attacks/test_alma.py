"""ALMA against closed forms on planes, quadratics and the digits."""

import math

import pytest
import torch
from torch import nn

from digits_bed import quantile, ratios
from minimum_norm import quadratic_ratios
from robustscope.attacks.alma import _slope
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier


def test_two_boxed_classes():
    p = problems.linear_boxed(n=24, classes=2)
    verdict = attack("alma", Classifier(p.module), p.x, p.y, "l2:inf", steps=500).verdict
    ratio = verdict.distance / p.radius["l2"]
    assert verdict.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert quantile(ratio, 0.5) <= 1.001
    assert ratio.max() <= 1.05


def test_quadratics():
    found = quadratic_ratios("alma", steps=500)
    assert found.min() >= 1 - 1e-9
    assert found.max() <= 1.01


def test_digits():
    ratio, _ = ratios("alma", "l2", 60, torch.float32, steps=500)
    assert ratio.isfinite().all()
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= 1.02


@pytest.mark.parametrize("rho", [0.3, 2.0])
def test_slope_is_the_derivative_of_the_penalty(rho):
    """P(g) = mu g + mu rho g^2 + rho^2 g^3 / 6 before the boundary, mu g / (1 - rho g) behind it: 1-C1 at zero."""
    g = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    mu = torch.full_like(g, 0.7).detach()
    penalty = torch.where(g >= 0, mu * g + mu * rho * g**2 + rho**2 * g**3 / 6, mu * g / (1 - rho * g.clamp(max=0)))
    (exact,) = torch.autograd.grad(penalty.sum(), g)
    torch.testing.assert_close(_slope(g.detach(), torch.full_like(mu, rho), mu), exact)


@pytest.mark.parametrize("classes", [2, 3])
def test_scaled_logits_and_other_bounds_give_the_same_examples(classes):
    """Up to what the margin of 1e-4 logits changes of the path."""
    p, wide = problems.linear_boxed(n=6, classes=classes), Bounds(-2.0, 6.0)

    class Changed(nn.Module):
        def forward(self, x):
            return 1000 * p.module((x + 2) / 8)

    unit = attack("alma", Classifier(p.module), p.x, p.y, "l2:inf", steps=200)
    threat = ThreatModel("l2", math.inf, wide)
    other = attack("alma", Classifier(Changed().eval(), wide), p.x * 8 - 2, p.y, threat, steps=200)
    torch.testing.assert_close(other.verdict.distance, 8 * unit.verdict.distance, rtol=0.03, atol=0)


def test_finite_radius():
    p = problems.linear_boxed(n=8, classes=2)
    radii = tuple((p.radius["l2"] * torch.tensor([0.5, 1.05] * 4)).tolist())
    outcome = attack("alma", Classifier(p.module), p.x, p.y, ThreatModel("l2", radii), steps=300)
    assert outcome.verdict.success.tolist() == [False, True] * 4


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"final_step": 0.0}, {"memory": 1.0}, {"curvature_growth": 1.0}, {"enough_progress": 1.5}],
)
def test_bad_hyper_parameters_are_refused(wrong):
    p = problems.linear_boxed(n=2)
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        attack("alma", Classifier(p.module), p.x, p.y, "l2:inf", **wrong)
