"""The momentum iterative method against its formula and closed forms."""

import pytest
import torch
import torch.nn.functional as F

from robustscope.attacks.compose import attack
from robustscope.attacks.mim import unit_mean
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

NORMS = ("linf", "l2", "l1")


def door(problem):
    return Classifier(problem.module, problem.bounds)


def by_hand(problem, threat, steps, relative, decay):
    """The printed algorithm without early exit, in plain torch."""
    point, velocity = problem.x.clone(), torch.zeros_like(problem.x)
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(problem.module(leaf), problem.y, reduction="sum"), leaf)
        velocity = decay * velocity + gradient / gradient.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        length = velocity.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        direction = velocity.sign() if threat.norm == "linf" else velocity / length
        point = balls.project(threat, problem.x, point + relative * threat.epsilon * direction)
    return point


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("decay", [1.0, 0.4])
def test_the_printed_algorithm(norm, decay):
    p = problems.smooth_cnn(torch.float64, n=8)
    threat = ThreatModel(norm, {"linf": 0.008, "l2": 0.05}[norm])
    facts = {"steps": 12, "relative_step_size": 0.3, "decay": decay}
    outcome = attack("mim", door(p), p.x, p.y, threat, **facts)
    rows = ~outcome.verdict.success
    assert rows.sum() >= 4
    due = by_hand(p, threat, 12, 0.3, decay)
    torch.testing.assert_close(outcome.result.x_adv[rows], due[rows], rtol=0, atol=1e-12)
    if decay == 1.0:
        other = by_hand(p, threat, 12, 0.3, 0.0)
        assert not torch.allclose(due[rows], other[rows], atol=1e-6), "momentum must matter here"


@pytest.mark.parametrize("norm", NORMS)
def test_without_momentum_it_is_bim(norm):
    p = problems.smooth_cnn(torch.float64, n=12)
    threat = ThreatModel(norm, {"linf": 0.03, "l2": 0.2, "l1": 0.7}[norm])
    ours = attack("mim", door(p), p.x, p.y, threat, steps=10, decay=0.0).result.x_adv
    theirs = attack("bim", door(p), p.x, p.y, threat, steps=10, relative_step_size=0.1).result.x_adv
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_two_linear_classes_in_the_box(norm):
    p = problems.linear_boxed(n=24, classes=2)
    for factor, due in ((1.05, True), (0.999, False)):
        threat = ThreatModel(norm, tuple((factor * p.radius[norm]).tolist()))
        outcome = attack("mim", door(p), p.x, p.y, threat, steps=60)
        assert (outcome.verdict.success == due).all()


def test_solved_samples_leave():
    p = problems.linear_binary("linf", n=6)
    radii = tuple(problems.RADII["linf"] * f for f in (0.5, 1.01, 4.0, 0.5, 1.01, 4.0))
    result = attack("mim", door(p), p.x, p.y, ThreatModel("linf", radii)).result
    assert result.forward.tolist() == result.backward.tolist() == [10, 10, 4, 10, 10, 4]


def test_gradients_of_any_size_weigh_the_same():
    gradients = torch.tensor([[3.0, -1.0], [0.0, 0.0], [3e-39, -1e-39], [3e38, -1e38]])
    due = torch.tensor([[1.5, -0.5], [0.0, 0.0], [1.5, -0.5], [1.5, -0.5]])
    torch.testing.assert_close(unit_mean(gradients), due, rtol=1e-4, atol=0)


def test_bad_parameters_are_refused():
    p = problems.smooth_cnn(n=2)
    for facts in ({"decay": 1.5}, {"decay": -0.1}, {"steps": 0}, {"relative_step_size": 0.0}):
        with pytest.raises(InvalidValue):
            attack("mim", door(p), p.x, p.y, "linf:0.1", **facts)
