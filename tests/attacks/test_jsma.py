"""JSMA against saliency maps worked out by hand, and the greedy optimum as a floor."""

import itertools
import math

import pytest
import torch
from torch import nn

from digits_bed import ratios
from robustscope.attacks.compose import attack
from robustscope.attacks.jsma import _most_salient
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

INF = ThreatModel("l0", math.inf)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return Classifier(layer.eval())


def by_hand(own, others, movable, together):
    """Algorithm 3 of the paper, over all pairs (or values) in plain Python."""
    best, chosen = 0.0, None
    for group in itertools.combinations([i for i in range(len(own)) if movable[i]], together):
        a, b = sum(own[i] for i in group), sum(others[i] for i in group)
        if a > 0 > b and -a * b > best:
            best, chosen = -a * b, set(group)
    return chosen


@pytest.mark.parametrize("together", [1, 2])
def test_the_most_salient_values_are_those_of_the_paper(together):
    generator = torch.Generator().manual_seed(5)
    own, others = (torch.randn(200, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    own[:20] -= 3  # nothing salient
    movable = torch.rand(200, 7, generator=generator) < 0.7
    chosen, salient = _most_salient(own, others, movable, together)
    for row in range(200):
        due = by_hand(own[row].tolist(), others[row].tolist(), movable[row].tolist(), together)
        assert bool(salient[row]) == (due is not None)
        if due is not None:
            assert set(chosen[row].nonzero()[:, 0].tolist()) == due


def test_one_pair_is_enough_where_it_should_be():
    """Values 1 and 3 raise the target and lower the other class most; the rest must not move."""
    model = linear([[0.0, -2.0, 0.1, -1.0], [0.1, 2.0, 0.0, 1.5]], [2.0, 0.0])
    x = torch.full((1, 4), 0.2, dtype=torch.float64)
    outcome = attack("jsma", model, x, torch.tensor([0]), INF)
    assert outcome.result.x_adv.tolist() == [[0.2, 1.0, 0.2, 1.0]]
    assert outcome.verdict.success.all()
    assert (outcome.result.forward.item(), outcome.result.backward.item()) == (2, 4)


def test_directions():
    """With reversed weights "up" finds nothing salient and "both" moves the values down."""
    model = linear([[0.0, 2.0, 0.0, 1.0], [0.0, -2.0, 0.0, -1.5]], [0.0, 3.0])
    x, y = torch.full((1, 4), 0.8, dtype=torch.float64), torch.tensor([0])
    up = attack("jsma", model, x, y, INF, direction="up")
    assert torch.equal(up.result.x_adv, x)
    for direction in ("both", "down"):
        moved = attack("jsma", model, x, y, INF, direction=direction)
        assert moved.result.x_adv.tolist() == [[0.8, 0.0, 0.8, 0.0]]


def test_share_of_values():
    p = problems.linear_boxed(n=12, classes=2)
    outcome = attack("jsma", Classifier(p.module), p.x, p.y, INF, largest_share=2 / 48)
    assert (outcome.verdict.distance <= 2).all()
    assert not outcome.verdict.success.all()


def test_digits():
    """100 digits: twice the fewest values on average (1.99 one by one, 2.26 in pairs); never fewer."""
    for together, mean in ((1, 2.2), (2, 2.5)):
        ratio, _ = ratios("jsma", "l0", 100, together=together)
        assert ratio.min() >= 1
        assert ratio.mean() <= mean


def test_targets_are_reached():
    p = problems.linear_boxed(n=12, classes=4)
    targets = (p.y + 1) % 4
    outcome = attack("jsma", Classifier(p.module), p.x, p.y, INF, targets=targets)
    assert outcome.verdict.success.double().mean() >= 0.9
    assert torch.equal(outcome.verdict.prediction[outcome.verdict.success], targets[outcome.verdict.success])


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_boxed(n=2)
    for facts in ({"together": 3}, {"largest_share": 0.0}, {"steps": 0}, {"direction": "left"}):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("jsma", Classifier(p.module), p.x, p.y, INF, **facts)
