"""PDPGD against the fractional knapsack, which is exact in l1 on linear models."""

import math

import pytest
import torch

from digits_bed import digits, quantile, ratios
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("l1", math.inf)


def test_digits():
    """200 digits at the defaults: mean 1.053, median 1.003 (EAD: 1.050 and 1.006 for four times the rows)."""
    ratio, outcome = ratios("pdpgd", "l1", 60)
    assert ratio.min() >= 1 - 1e-9
    assert quantile(ratio, 0.5) <= 1.01
    assert ratio.mean() <= 1.08
    assert outcome.result.backward.max() == 500


def test_digits_best_of_targeted_reaches_the_exact_radius():
    """What is left above is the wrong nearest class."""
    model, x, y, radius = digits("l1", 20)
    goals = torch.cat([(y + k) % 10 for k in range(1, 10)])
    found = attack("pdpgd", model, x.repeat(9, 1), y.repeat(9), INF, targets=goals).verdict
    best = torch.where(found.success, found.distance, math.inf).view(9, 20).amin(0) / radius
    assert best.min() >= 1 - 1e-9
    assert quantile(best, 0.5) <= 1.005
    assert best.max() <= 1.12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_boxed_classes(dtype):
    p = problems.linear_boxed(dtype, n=24, classes=2)
    outcome = attack("pdpgd", Classifier(p.module), p.x, p.y, INF)
    ratio = outcome.verdict.distance / p.radius["l1"]
    assert outcome.verdict.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.02


def test_examples_are_sparse():
    """The proximal map leaves what does not pay at x: of 48 values the knapsack moves 3 to 6, the attack at most 9."""
    p = problems.linear_boxed(n=12, classes=2)
    x_adv = attack("pdpgd", Classifier(p.module), p.x, p.y, INF).result.x_adv
    delta = (x_adv - p.x).abs().flatten(1)
    assert ((delta > 1e-3).sum(1) <= 9).all()
    assert ((delta > 0).sum(1) <= 20).all()


def test_other_bounds_give_the_same_examples_in_their_units():
    p, wide = problems.linear_boxed(n=6, classes=3), Bounds(-2.0, 6.0)

    class Unscale(torch.nn.Module):
        def forward(self, x):
            return p.module((x + 2) / 8)

    unit = attack("pdpgd", Classifier(p.module), p.x, p.y, INF, steps=60)
    threat = ThreatModel("l1", math.inf, wide)
    other = attack("pdpgd", Classifier(Unscale().eval(), wide), p.x * 8 - 2, p.y, threat, steps=60)
    torch.testing.assert_close(other.verdict.distance, 8 * unit.verdict.distance, rtol=1e-6, atol=0)


def test_finite_radius():
    p = problems.linear_boxed(n=8, classes=2)
    radii = tuple((p.radius["l1"] * torch.tensor([0.5, 1.05] * 4)).tolist())
    outcome = attack("pdpgd", Classifier(p.module), p.x, p.y, ThreatModel("l1", radii))
    assert outcome.verdict.success.tolist() == [False, True] * 4


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_boxed(n=2)
    for facts in (
        {"steps": 0},
        {"primal_decay": 1.5},
        {"dual_memory": 1.0},
        {"smallest_ratio": 0.0},
        {"first_ratio": -1.0},
    ):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("pdpgd", Classifier(p.module), p.x, p.y, INF, **facts)
