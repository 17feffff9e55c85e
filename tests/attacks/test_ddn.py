"""DDN against closed forms."""

import math

import pytest
import torch

from digits_bed import quantile, ratios
from minimum_norm import quadratic_ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier


def test_a_plane_is_met_within_a_hundredth():
    p = problems.linear_binary("l2", n=16)
    verdict = attack("ddn", Classifier(p.module), p.x, p.y, ThreatModel("l2", math.inf)).verdict
    ratio = verdict.distance / p.radius["l2"]
    assert verdict.success.all()
    assert ratio.min() >= 1
    assert ratio.max() <= 1.01


def test_quadratics():
    found = quadratic_ratios("ddn")
    assert found.min() >= 1 - 1e-9
    assert found.median() <= 1.01
    assert found.max() <= 1.03


@pytest.mark.parametrize(("loss", "median", "tail"), [("cross_entropy", 1.01, 1.12), ("margin", 1.002, 1.12)])
def test_digits_in_the_box(loss, median, tail):
    """No digit is missed and none falls inside its radius; what is left is the wrong nearest class."""
    ratio, _ = ratios("ddn", "l2", 400, torch.float32, loss=loss)
    assert ratio.isfinite().all()
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= median
    assert quantile(ratio, 0.95) <= tail


def test_the_length_follows_success_and_failure():
    """While no iterate is adversarial the length grows by norm_change: the first success has one of few lengths."""
    p = problems.linear_binary("l2", n=1)
    threat = ThreatModel("l2", 1.0)
    facts = {"initial_norm": 0.1, "norm_change": 0.2, "stop_at_epsilon": True}
    verdict = attack("ddn", Classifier(p.module), p.x, p.y, threat, **facts).verdict
    growths = math.log(float(verdict.distance[0]) / 0.1, 1.2)
    assert verdict.success.all()
    assert growths == pytest.approx(4, abs=1e-9), "0.1 * 1.2^4 = 0.207 is the first length beyond 0.2"


def test_hyper_parameters_out_of_range_are_refused():
    p = problems.linear_binary("l2", n=1)
    for name, value in (("norm_change", 1.0), ("norm_change", 0.0), ("steps", 0), ("initial_norm", -1.0)):
        with pytest.raises(InvalidValue, match=name):
            attack("ddn", Classifier(p.module), p.x, p.y, "l2:inf", **{name: value})
