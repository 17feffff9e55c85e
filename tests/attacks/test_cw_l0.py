"""Carlini and Wagner's l0 attack against the greedy optimum, which is exact on linear models."""

import math

import pytest
import torch

from digits_bed import ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("l0", math.inf)


def test_digits():
    """100 digits: 1.18 times the fewest values on average, the median exact, twice at most; never fewer."""
    ratio, _ = ratios("cw_l0", "l0", 40)
    assert ratio.min() >= 1
    assert float(ratio.median()) == 1.0
    assert ratio.mean() <= 1.25


def test_two_boxed_classes():
    p = problems.linear_boxed(n=24, classes=2)
    outcome = attack("cw_l0", Classifier(p.module), p.x, p.y, INF)
    extra = outcome.verdict.distance - p.radius["l0"]
    assert outcome.verdict.success.all()
    assert extra.min() >= 0
    assert extra.max() <= 1
    assert extra.mean() <= 0.25


def test_what_is_not_counted_is_x_bit_for_bit():
    p = problems.linear_boxed(torch.float32, n=8, classes=3)
    outcome = attack("cw_l0", Classifier(p.module), p.x, p.y, INF)
    moved = (outcome.result.x_adv - p.x).abs()
    assert ((moved == 0) | (moved > 1e-4)).all()
    assert (outcome.verdict.distance < 12).all()


def test_finite_radius_of_whole_values():
    p = problems.linear_boxed(n=8, classes=2)
    counts = p.radius["l0"] - torch.tensor([1.0, 0.0] * 4)
    outcome = attack("cw_l0", Classifier(p.module), p.x, p.y, ThreatModel("l0", tuple(counts.tolist())))
    assert not outcome.verdict.success[0::2].any()
    assert outcome.verdict.success[1::2].sum() >= 3


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_boxed(n=2)
    for facts in ({"steps": 0}, {"largest_constant": math.inf}, {"queries": -1}):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("cw_l0", Classifier(p.module), p.x, p.y, INF, **facts)
