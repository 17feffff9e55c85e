"""The search over rotations and translations: it finds the worst of its own grid, and what a toy model hides."""

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.attacks.rotation_translation import _grid
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import RotationTranslation
from robustscope.core.types import Bounds
from robustscope.data import problems
from robustscope.geometry import rigid
from robustscope.models.classifier import Classifier


class Bright(nn.Module):
    """Class 1 as soon as the upper left pixel is bright: only some transformations bring light there."""

    def forward(self, x):
        light = x[:, 0, 0, 0]
        return torch.stack([torch.full_like(light, 0.9), light], 1)


def one_pixel(row, column, size=5):
    x = torch.zeros(1, 1, size, size, dtype=torch.float64)
    x[0, 0, row, column] = 1.0
    return x


@pytest.mark.parametrize(
    ("place", "threat", "expected"),
    [
        ((1, 2), "rotation-translation:0,2", (0.0, -2.0, -1.0)),
        ((0, 4), "rotation-translation:90,0", (90.0, 0.0, 0.0)),
        ((4, 0), "rotation-translation:90,0", (-90.0, 0.0, 0.0)),
        ((0, 3), "rotation-translation:90,1", (90.0, 0.0, -1.0)),
    ],
)
def test_finds_the_one_transformation_that_breaks(place, threat, expected):
    x, y = one_pixel(*place), torch.tensor([0])
    outcome = attack("rotation_translation", Classifier(Bright().eval()), x, y, threat, trials=0, angles=3, shifts=5)
    assert outcome.verdict.success.all()
    assert outcome.result.parameters[0].tolist() == pytest.approx(expected)
    small = attack("rotation_translation", Classifier(Bright().eval()), one_pixel(4, 4), y, "rotation-translation:20,1")
    assert not small.verdict.success.any()


def test_returns_the_worst_of_its_grid():
    problem = problems.smooth_cnn(torch.float64, 12)
    model, threat = Classifier(problem.module), RotationTranslation(6, 0.25)
    points = _grid(5, 3) * torch.tensor([6.0, 0.25, 0.25])
    assert len(points) == 45
    assert points.abs().amax(0).tolist() == [6, 0.25, 0.25]
    margins = []
    for point in points:
        logits = model.logits(rigid.transform(problem.x, point.expand(12, 3), Bounds(0.0, 1.0)))
        others = logits.scatter(1, problem.y[:, None], -torch.inf).amax(1)
        margins.append(logits.gather(1, problem.y[:, None])[:, 0] - others)
    worst = torch.stack(margins).amin(0)
    outcome = attack("rotation_translation", model, problem.x, problem.y, threat, trials=0, angles=5, shifts=3)
    assert torch.equal(outcome.verdict.success, worst < 0)
    held = ~outcome.verdict.success
    assert held.any()
    assert (~held).any()
    assert torch.allclose(outcome.verdict.margin[held], worst[held])
    assert outcome.result.forward[held].tolist() == [45] * int(held.sum())
    assert (outcome.result.forward[~held] < 45).any()


def test_more_trials_contain_fewer():
    problem = problems.smooth_cnn(n=16)
    model, before = Classifier(problem.module), torch.zeros(16, dtype=torch.bool)
    for trials in (1, 4, 16):
        facts = {"trials": trials, "angles": 0, "draws": Draws(0, tuple(range(16)))}
        outcome = attack("rotation_translation", model, problem.x, problem.y, "rotation-translation:30,1", **facts)
        assert (outcome.verdict.success | ~before).all()
        before = outcome.verdict.success
    assert before.any()


def test_what_cannot_be_tried_is_refused():
    problem = problems.smooth_cnn(n=2)
    model = Classifier(problem.module)
    for facts in ({"trials": 0, "angles": 0}, {"trials": -1}, {"shifts": 0}):
        with pytest.raises(InvalidValue, match="trials"):
            attack("rotation_translation", model, problem.x, problem.y, "rotation-translation:30,1", **facts)
    flat = Classifier(nn.Linear(4, 2).eval())
    with pytest.raises(InvalidValue, match="images"):
        attack("rotation_translation", flat, torch.zeros(1, 4), torch.zeros(1).long(), "rotation-translation:30,1")
