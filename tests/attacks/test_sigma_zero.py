"""Sigma-zero against the exact l0 distances of linear models."""

import math

import pytest
import torch

from digits_bed import ratios
from robustscope.attacks.compose import attack
from robustscope.attacks.sigma_zero import _slope
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier


def test_two_classes_in_the_box_take_the_fewest_values():
    p = problems.linear_boxed(n=24, classes=2)
    verdict = attack("sigma_zero", Classifier(p.module), p.x, p.y, ThreatModel("l0", math.inf), steps=300).verdict
    assert verdict.success.all()
    more = verdict.distance - p.radius["l0"]
    assert more.min() >= 0
    assert more.mean() <= 0.1


def test_digits():
    """At most one value more than needed, and that for a tenth of the digits."""
    ratio, outcome = ratios("sigma_zero", "l0", 300, torch.float32, steps=300)
    exact = outcome.verdict.distance / ratio
    more = outcome.verdict.distance - exact
    assert more.min() >= -1e-9
    assert more.max() <= 1 + 1e-9
    assert more.mean() <= 0.15


def test_a_limited_number_of_values_is_kept():
    p = problems.linear_boxed(n=24, classes=2)
    exact = p.radius["l0"]
    radii = exact - torch.arange(24) % 2
    outcome = attack("sigma_zero", Classifier(p.module), p.x, p.y, ThreatModel("l0", tuple(radii.tolist())), steps=300)
    assert not outcome.verdict.success[1::2].any()
    assert outcome.verdict.success[::2].double().mean() >= 0.9


def test_the_slope_is_that_of_the_objective():
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 10, generator=generator, dtype=torch.float64).requires_grad_(True)
    weight = torch.randn(3, 10, generator=generator, dtype=torch.float64)
    smooth = (delta.square() / (delta.square() + 0.01)).mean(1)
    (due,) = torch.autograd.grad((smooth - (weight * delta).sum(1)).sum(), delta)
    got = _slope(delta.detach(), weight, 0.01)
    torch.testing.assert_close(got, due / due.abs().amax(1, keepdim=True))


def test_hyper_parameters_out_of_range_are_refused():
    p = problems.linear_boxed(n=1)
    for name, value in (("sigma", 0.0), ("threshold", -0.1), ("threshold_change", math.inf), ("steps", 0)):
        with pytest.raises(InvalidValue, match=name):
            attack("sigma_zero", Classifier(p.module), p.x, p.y, "l0:inf", **{name: value})
