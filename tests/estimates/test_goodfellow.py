"""Goodfellow's three constructions: the estimate is fooled as predicted, far above the true radius, and says when it can tell."""

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import goodfellow
from robustscope.estimates.compose import estimate
from robustscope.models.classifier import Classifier

NORMS = ("linf", "l2", "l1")
FEW = {"batches": 6, "points": 10}


def scanned(problem, norm, number=40_000):
    """Distance to the nearest of many points of another class: an upper end for the radius of each sample, by brute force."""
    generator = torch.Generator().manual_seed(0)
    points = (1.02 * torch.rand(number, problem.x.shape[1], generator=generator, dtype=torch.float64)).clamp(max=1)
    classes = problem.module(points).argmax(1)
    gaps = goodfellow.length(norm, points[None] - problem.x.double()[:, None])
    return gaps.masked_fill(classes[None] == problem.y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stairs", [2, 5])
def test_radii_of_the_staircase_against_brute_force(norm, stairs):
    """Two values and classes, a dense cloud of points: never nearer than the radius, and some almost as near."""
    problem = goodfellow.staircase(stairs, n=6, classes=2)
    found = scanned(problem, norm)
    assert (found >= problem.radius[norm] - 1e-12).all()
    assert (found <= problem.radius[norm] + 0.05).all()


def test_radii_of_the_staircase_are_attained():
    """A hair beyond the radius along the best stair the class changes: ties included, for all classes."""
    problem = goodfellow.staircase(16, n=40, classes=5)
    outcome = attack("noise_uniform", Classifier(problem.module), problem.x, problem.y, "linf:1", restarts=20)
    assert (outcome.verdict.distance[outcome.verdict.success] >= problem.radius["linf"][outcome.verdict.success]).all()
    near = problem.radius["linf"] + 1e-9
    moved = problem.x + near[:, None]
    lowered = moved.scatter(1, problem.y[:, None], (problem.x.gather(1, problem.y[:, None]) - near[:, None]))
    assert (problem.module(lowered.clamp(0, 1)).argmax(1) != problem.y).all(), "all others up, the own value down"
    inside = problem.radius["linf"] - 1e-9
    moved = problem.x + inside[:, None]
    lowered = moved.scatter(1, problem.y[:, None], (problem.x.gather(1, problem.y[:, None]) - inside[:, None]))
    assert (problem.module(lowered.clamp(0, 1)).argmax(1) == problem.y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_staircase_sends_clever_to_its_cap(norm):
    """Zero gradients everywhere: the score is the sampling radius, whatever that is, and it is flagged."""
    problem = goodfellow.staircase(256, n=8)
    model = Classifier(problem.module)
    for cap in (1.0, 7.0):
        found = estimate("clever", model, problem.x, problem.y, f"{norm}:{cap}", **FEW)
        assert found.radius.tolist() == [cap] * 8
        assert found.zero_share.tolist() == [1.0] * 8
        assert all({"capped", "zero_gradients", "constant"} <= set(codes) for codes in found.warnings)
        assert (problem.radius[norm] < 0.75 * cap).all()


def test_an_attack_without_gradients_is_below_the_estimate():
    """What a bracket will flag: the estimate above the distance of an example that exists."""
    problem = goodfellow.staircase(64, n=4)
    model = Classifier(problem.module)
    found = estimate("clever", model, problem.x, problem.y, "l2:2", **FEW)
    verdict = attack("boundary", model, problem.x, problem.y, "l2:inf", queries=400).verdict
    assert verdict.success.all()
    assert (verdict.distance >= problem.radius["l2"] - 1e-9).all()
    assert (found.radius > 2 * verdict.distance).all()


@pytest.mark.parametrize("norm", NORMS)
def test_saturated_probabilities_raise_the_score_and_logits_do_not(norm):
    """Temperature changes no decision and no radius: on logits the score is exact, on probabilities it reaches the cap."""
    scores = []
    for temperature in (0.1, 0.01, 0.002):
        problem = goodfellow.saturated(temperature)
        door = Classifier(problem.module, allow_probabilities=True)
        half = ThreatModel(norm, tuple((problem.radius[norm] / 2).tolist()))
        found = estimate("clever", door, problem.x, problem.y, half, **FEW)
        assert all("probabilities" in codes for codes in found.warnings)
        scores.append((found.margin / found.location).median())
        plain = Classifier(problem.module.network.eval())
        exact = estimate("clever", plain, problem.x, problem.y, f"{norm}:50", **FEW)
        torch.testing.assert_close(exact.radius, problem.radius[norm], rtol=1e-9, atol=0)
        assert not any("probabilities" in codes for codes in exact.warnings)
    assert scores[0] < scores[1] < scores[2]
    assert scores[2] > 20 * problem.radius[norm].median()
    assert found.capped.all()


def test_probabilities_that_underflow_are_flagged_as_zero_gradients():
    problem = goodfellow.saturated(1e-4)
    door = Classifier(problem.module, allow_probabilities=True)
    cap = 0.5 * float(problem.radius["l2"].min())
    found = estimate("clever", door, problem.x, problem.y, f"l2:{cap}", **FEW)
    assert found.capped.all()
    wide = estimate("clever", door, problem.x, problem.y, "l2:0.02", **FEW)
    assert any("zero_gradients" in codes for codes in wide.warnings)


@pytest.mark.parametrize("norm", NORMS)
def test_the_needle_is_not_found(norm):
    """20 values, cone a quarter of the ball: (1 - 0.25^20)^600 is 1 to nine digits, and the score is the cap."""
    problem = goodfellow.needle(norm, distance=0.3, width=0.1)
    cap = 0.4
    found = estimate("clever", Classifier(problem.module), problem.x, problem.y, f"{norm}:{cap}", batches=20, points=30)
    assert found.radius.tolist() == [cap]
    assert float(problem.radius[norm][0]) == pytest.approx(0.225)
    assert found.zero_share.tolist() == [1.0]


@pytest.mark.parametrize("norm", NORMS)
def test_the_radius_of_the_needle_is_its_own(norm):
    """The nearest point of the other class, on the line to the tip: class 1 just beyond, class 0 just before."""
    problem = goodfellow.needle(norm)
    step = torch.zeros_like(problem.x)
    step[0, 0] = problem.radius[norm][0]
    assert problem.module(problem.x + step * (1 + 1e-9)).argmax(1).tolist() == [1]
    assert problem.module(problem.x + step * (1 - 1e-9)).argmax(1).tolist() == [0]


def test_a_blunt_needle_is_found_as_often_as_predicted():
    """Two values: a point falls into the cone with probability (width / R)^2."""
    problem = goodfellow.needle("l2", values=2, distance=0.25, width=0.2)
    cap = 0.45
    found = estimate("clever", Classifier(problem.module), problem.x, problem.y, f"l2:{cap}", batches=50, points=200)
    due = (0.2 / cap) ** 2
    assert 1 - float(found.zero_share[0]) == pytest.approx(due, abs=4 * (due * (1 - due) / 10_000) ** 0.5)
    # Inside the cone the slope is depth / width, so the estimate is margin * width / depth: below the radius.
    assert float(found.radius[0]) == pytest.approx(0.2 / 4.0)
    assert float(found.radius[0]) < float(problem.radius["l2"][0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: goodfellow.staircase(1),
        lambda: goodfellow.staircase(classes=1),
        lambda: goodfellow.saturated(0.0),
        lambda: goodfellow.needle(distance=0.45),
        lambda: goodfellow.needle(depth=0.5),
        lambda: goodfellow.needle(width=0.4),
    ],
)
def test_impossible_constructions_are_refused(make):
    with pytest.raises(InvalidValue):
        make()


def test_constructions_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    goodfellow.staircase(), goodfellow.saturated(), goodfellow.needle()
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(goodfellow.needle().module, nn.Module)
