"""DeepFool against closed forms."""

import math

import pytest
import torch
from torch import nn

from digits_bed import quantile, ratios
from minimum_norm import quadratic_ratios
from robustscope.attacks.compose import attack
from robustscope.attacks.deepfool import BEYOND
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

NORMS = ("l2", "linf")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("overshoot", [0.02, 0.0, 0.3])
def test_an_affine_model_takes_one_step_of_known_length(norm, overshoot):
    """Where the box is out of reach: (1 + overshoot) * (exact radius + 1e-4), in one iteration."""
    p = problems.linear_multiclass(n=32)
    outcome = attack("deepfool", Classifier(p.module), p.x, p.y, ThreatModel(norm, math.inf), overshoot=overshoot)
    assert outcome.verdict.success.all()
    due = (1 + overshoot) * (p.radius[norm] + BEYOND)
    torch.testing.assert_close(outcome.verdict.distance, due, rtol=1e-12, atol=1e-14)
    assert outcome.result.backward.tolist() == [4] * 32, "one gradient for each of the four rivals, once"
    assert outcome.result.forward.tolist() == [2] * 32


def test_quadratics():
    """Never inside the exact distance, and little beyond it: the steps do not end at the nearest point of a curve."""
    found = quadratic_ratios("deepfool")
    assert found.min() >= 1
    assert found.median() <= 1.03
    assert found.max() <= 1.05


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_digits_in_the_box(norm, dtype):
    """Every digit falls, none inside its radius, and the excess is the overshoot: 1.020 at the median."""
    ratio, outcome = ratios("deepfool", norm, 797, dtype)
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= 1.0225
    assert quantile(ratio, 0.95) <= 1.03
    assert ratio.max() <= 1.3  # the smallest radius is 0.001, of which 1e-4 beyond the plane is a tenth
    assert outcome.verdict.survives_8bit.double().mean() >= 0.6


def test_samples_that_are_misclassified_come_back_as_they_are():
    p = problems.linear_multiclass(n=6)
    outcome = attack("deepfool", Classifier(p.module), p.x, (p.y + 1) % 5, "l2:inf")
    assert outcome.verdict.success.all()
    assert torch.equal(outcome.result.x_adv, p.x)
    assert outcome.result.forward.tolist() == [1] * 6
    assert outcome.result.backward.tolist() == [4] * 6, "the first look at an input is at its planes too"


def test_bounds_scale_the_attack():
    p = problems.linear_boxed(n=12)

    class Scaled(torch.nn.Module):
        def forward(self, x):
            return p.module(x / 10 + 0.5)

    wide = Bounds(-5.0, 5.0)
    one = attack("deepfool", Classifier(p.module), p.x, p.y, ThreatModel("l2", math.inf))
    ten = attack(
        "deepfool", Classifier(Scaled().eval(), wide), (p.x - 0.5) * 10, p.y, ThreatModel("l2", math.inf, wide)
    )
    torch.testing.assert_close(10 * one.verdict.distance, ten.verdict.distance, rtol=1e-9, atol=0)


class Kinked(nn.Module):
    """Almost flat at 0, where the plane lies far outside the bounds; steep from 0.15 on: the boundary is at 0.25."""

    def forward(self, x):
        first = x[:, 0]
        rise = 0.001 * (first - 0.25) - 1 + 10 * (first - 0.15).relu()
        return torch.stack([-rise / 2, rise / 2], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_reach_does_not_lead_to_the_corner_of_the_bounds(norm):
    x, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
    verdict = attack("deepfool", Classifier(Kinked().eval()), x, y, ThreatModel(norm, math.inf), overshoot=0.0).verdict
    assert verdict.success.all()
    assert 0.25 <= verdict.distance.item() <= 0.25 + 2 * BEYOND


def test_fewer_classes_are_looked_at_if_asked():
    p = problems.linear_multiclass(n=16)
    model = Classifier(p.module)
    few = attack("deepfool", model, p.x, p.y, "l2:inf", num_classes=2)
    assert few.verdict.success.all()
    assert (few.result.backward <= 2).all()
    assert few.verdict.distance.mean() > attack("deepfool", model, p.x, p.y, "l2:inf").verdict.distance.mean()
    with pytest.raises(InvalidValue, match="num_classes=1"):
        attack("deepfool", model, p.x, p.y, "l2:inf", num_classes=1)
    with pytest.raises(InvalidValue, match=r"overshoot=-0\.1"):
        attack("deepfool", model, p.x, p.y, "l2:inf", overshoot=-0.1)
