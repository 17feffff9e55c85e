"""FMN against closed forms, in four norms."""

import math

import pytest
import torch
from torch import nn

from digits_bed import digits, quantile, ratios
from minimum_norm import quadratic_ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_plane_is_met_closely(norm):
    p = problems.linear_binary(norm, n=16)
    verdict = attack("fmn", Classifier(p.module), p.x, p.y, ThreatModel(norm, math.inf)).verdict
    ratio = verdict.distance / p.radius[norm]
    assert verdict.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.003


def test_two_classes_in_the_box_take_the_fewest_values():
    p = problems.linear_boxed(n=24, classes=2)
    verdict = attack("fmn", Classifier(p.module), p.x, p.y, ThreatModel("l0", math.inf)).verdict
    assert verdict.success.all()
    more = verdict.distance - p.radius["l0"]
    assert more.min() >= 0
    assert more.mean() <= 0.1


def test_quadratics():
    found = quadratic_ratios("fmn")
    assert found.min() >= 1 - 1e-9
    assert found.max() <= 1.001


@pytest.mark.parametrize(
    ("norm", "median", "tail"), [("linf", 1.001, 1.15), ("l2", 1.001, 1.12), ("l1", 1.001, 1.3), ("l0", 1.0, 1.5)]
)
def test_digits_in_the_box(norm, median, tail):
    """Median 1.0003 or less; the 95 % point, at 1.13, 1.10, 1.27 of the exact distance, is the wrong nearest class."""
    ratio, _ = ratios("fmn", norm, 400, torch.float32)
    assert ratio.isfinite().all(), "an attack that approaches the boundary from below for ever finds nothing"
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= median
    assert quantile(ratio, 0.95) <= tail


def test_towards_every_class_the_nearest_is_exact():
    """The best of nine targeted runs has no wrong nearest class left."""
    model, x, y, radius = digits("l2", 40)
    goals = torch.cat([(y + k) % 10 for k in range(1, 10)])
    found = attack("fmn", model, x.repeat(9, 1), y.repeat(9), "l2:inf", targets=goals).verdict
    best = torch.where(found.success, found.distance, math.inf).view(9, 40).amin(0) / radius
    assert best.min() >= 1 - 1e-9
    assert best.max() <= 1.01


class Stiff(nn.Module):
    """Nearly all of the gradient is that of a value at its bound; the other, at 0, must reach 0.5."""

    def forward(self, x):
        rise = 100 * (x[:, 0] - 1) + 0.2 * x[:, 1] - 0.1
        return torch.stack([-rise / 2, rise / 2], 1)


class Asleep(nn.Module):
    """The second value must reach 0.79, but has no gradient between 0.2 and 0.7: the first one's leads to its bound."""

    def forward(self, x):
        first, second = x.unbind(1)
        rise = 0.1 * first - 1 + 0.05 * second.clamp(max=0.2) + 10 * (second - 0.7).relu()
        return torch.stack([-rise / 2, rise / 2], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("network", "x", "radius"), [(Stiff, (1.0, 0.0), 0.5), (Asleep, (0.9, 0.0), 0.789)])
def test_values_at_their_bounds_do_not_end_the_search(norm, network, x, radius):
    """With the paper's steps the iterate soon stands still, and nothing is found in any of these norms."""
    points, y = torch.tensor([x], dtype=torch.float64), torch.tensor([0])
    verdict = attack("fmn", Classifier(network().eval()), points, y, ThreatModel(norm, math.inf)).verdict
    assert verdict.success.all()
    assert radius - 1e-9 <= verdict.distance.item() <= 1.002 * radius


def test_hyper_parameters_out_of_range_are_refused():
    p = problems.linear_binary("l2", n=1)
    for name, value in (("radius_change", 1.0), ("final_radius_change", 0.0), ("steps", 0), ("step_size", -1.0)):
        with pytest.raises(InvalidValue, match=name):
            attack("fmn", Classifier(p.module), p.x, p.y, "l2:inf", **{name: value})
