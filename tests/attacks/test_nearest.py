"""Nearest: the several attacks of one budget, against closed forms and a network that misleads a single one."""

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


class Decoy(nn.Module):
    """Three classes of two values: class 1 nearly wins and rises to the right, but not enough; class 2 wins above 0.8.

    Wherever class 0 wins, class 1 comes second, so that the gradient of the margin points right.
    """

    def forward(self, x):
        right, up = x[:, 0] - 0.5, x[:, 1] - 0.5
        return torch.stack([0 * right, 0.01 * right - 0.1, 10 * (up - 0.3)], 1)


@pytest.mark.parametrize(("norm", "exact"), [("linf", 0.3), ("l2", 0.3), ("l1", 0.3), ("l0", 1)])
def test_another_class_is_found_where_the_gradient_leads_to_none(norm, exact):
    model = Classifier(Decoy().eval())
    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    for alone in ("fmn",) if norm != "l0" else ("fmn", "sigma_zero"):
        assert not attack(alone, model, x, y, ThreatModel(norm, math.inf)).verdict.success.any()
    verdict = attack("nearest", model, x, y, ThreatModel(norm, math.inf), steps=200).verdict
    assert verdict.success.all()
    assert exact <= verdict.distance.item() <= exact * 1.001


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_plane_is_met_closely(norm):
    p = problems.linear_binary(norm, n=16)
    verdict = attack("nearest", Classifier(p.module), p.x, p.y, ThreatModel(norm, math.inf), steps=200).verdict
    ratio = verdict.distance / p.radius[norm]
    assert verdict.success.all()
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() <= 1.001


def test_two_classes_in_the_box_take_the_fewest_values():
    p = problems.linear_boxed(n=24, classes=2)
    verdict = attack("nearest", Classifier(p.module), p.x, p.y, ThreatModel("l0", math.inf), steps=200).verdict
    assert verdict.success.all()
    more = verdict.distance - p.radius["l0"]
    assert more.min() >= 0
    assert more.mean() <= 0.1


def test_quadratics():
    found = quadratic_ratios("nearest", steps=150)
    assert found.min() >= 1 - 1e-9
    assert found.max() <= 1.01


@pytest.mark.parametrize(("norm", "tail"), [("linf", 1.01), ("l2", 1.01), ("l1", 1.01), ("l0", 1.34)])
def test_digits_in_the_box(norm, tail):
    """Where FMN alone stays with the wrong nearest class (95 % point 1.1 to 1.3), the classes are all tried."""
    ratio, _ = ratios("nearest", norm, 100, torch.float32, steps=200)
    assert ratio.isfinite().all()
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= 1.001
    assert quantile(ratio, 0.95) <= tail


def test_an_example_beyond_the_radius_is_pulled_back_and_one_within_is_kept():
    model, x, y, radius = digits("l2", 20)
    limit = float(radius.median())
    outcome = attack("nearest", model, x, y, ThreatModel("l2", limit), steps=200)
    assert (outcome.verdict.success == (radius < limit)).float().mean() >= 0.95
    assert (outcome.verdict.distance <= limit * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_sample_may_be_done_with_its_first_example_within_the_radius(norm):
    model, x, y, _ = digits("l2", 12)
    found = attack("nearest", model, x, y, ThreatModel(norm, math.inf), steps=100)
    limit = float(found.verdict.distance.median()) * 1.1
    whole, part = (
        attack("nearest", model, x, y, ThreatModel(norm, limit), steps=100, stop_at_epsilon=stop)
        for stop in (False, True)
    )
    won = whole.verdict.success
    assert won.any()
    assert not won.all()
    assert torch.equal(won, part.verdict.success)
    assert torch.equal(whole.result.forward[~won], part.result.forward[~won])
    assert (part.result.forward[won] < whole.result.forward[won]).all()
    assert (part.result.backward[won] < whole.result.backward[won]).all()


def test_it_spends_what_it_says():
    model, x, y, _ = digits("l2", 4)
    for norm in ("linf", "l2", "l1", "l0"):
        result = attack("nearest", model, x, y, ThreatModel(norm, math.inf), steps=200).result
        assert (result.backward <= 240).all()
        assert ((result.forward + result.backward) <= 2 * 200 + 60).all()
        assert ((result.forward + result.backward) >= 0.9 * 2 * 200).all()


class Stairs(nn.Module):
    """Two classes: the margin rises gently in all values to a plateau beside x, and falls beyond it by a cliff."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.where(mean > 0.9, -1.0, 1.0).to(x) - 1e-3 * mean, torch.zeros_like(mean)], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps_outward_find_what_linear_steps_do_not(norm):
    """FAB asks how far a plane of slope 0.001 is, jumps to the corner and is drawn back; the walk inwards ends at 0.9."""
    x, y = torch.full((2, 9), 0.5, dtype=torch.float64), torch.tensor([0, 0])
    verdict = attack("nearest", Classifier(Stairs().eval()), x, y, ThreatModel(norm, math.inf), steps=150).verdict
    exact = {"linf": 0.4, "l2": 1.2, "l1": 3.6}[norm]
    assert verdict.success.all()
    assert verdict.distance.min() >= exact * (1 - 1e-9)
    assert verdict.distance.max() <= exact * 1.02


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"num_targets": 0}])
def test_refuses(wrong):
    p = problems.linear_binary("l2", n=2)
    with pytest.raises(InvalidValue):
        attack("nearest", Classifier(p.module), p.x, p.y, "l2:inf", **wrong)
