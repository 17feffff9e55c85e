"""FAB and FAB-T against closed forms and the published counts of the digits."""

import math

import pytest
import torch

from digits_bed import ratios
from minimum_norm import quadratic_ratios, robust_counts
from robustscope.attacks.compose import attack
from robustscope.attacks.fab import BEYOND
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.models.classifier import Classifier

NORMS = ("linf", "l2", "l1")
BOTH = ("fab", "fab_targeted")
# (norm, epsilon) -> what official FAB-T leaves of 797 digits (100 steps, seed 0); None where it was not run.
OFFICIAL = {("linf", 0.1): 458, ("linf", 0.05): 658, ("l2", 0.5): 441, ("l2", 0.8): None, ("l1", 1.0): None}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", BOTH)
def test_digits_never_below_the_exact_count_and_no_weaker_than_the_official_attack(name, norm):
    counts = robust_counts(name, norm, [e for n, e in OFFICIAL if n == norm], steps=10)
    for epsilon, (left, exact) in counts.items():
        assert exact <= left <= exact + 1
        assert left <= (OFFICIAL[norm, epsilon] or math.inf)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("search_steps", [0, 3])
def test_digits_in_the_box(norm, search_steps):
    """Within 1.02 of the exact distance, as the specification asks; 1.004 with the final search."""
    ratio, _ = ratios("fab", norm, 400, torch.float32, steps=15, search_steps=search_steps)
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= (1.02 if search_steps == 0 else 1.005)


def test_the_first_two_steps_on_a_plane():
    """In units of the exact distance, by hand: 1.05 ahead, drawn back to 0.945, then 1.0052 by the weighted mean."""
    p = problems.linear_binary("l2", n=4)
    facts = {"steps": 2, "search_steps": 0}
    verdict = attack("fab", Classifier(p.module), p.x, p.y, "l2:inf", **facts).verdict
    drawn_back = 0.9 * 1.05 * BEYOND
    near, far = BEYOND * (1 - drawn_back), BEYOND
    pull = near / (near + far)
    due = (1 - pull) * (drawn_back + 1.05 * near) + pull * 1.05 * far
    torch.testing.assert_close(verdict.distance / p.radius["l2"], torch.full((4,), due).double(), rtol=1e-7, atol=0)


def test_a_point_whose_values_are_on_their_bounds_does_not_stick_to_the_boundary():
    """One l1 digit of exact distance 3.125 needs four whole values and a sliver; single precision lands on the plane."""
    ratio, _ = ratios("fab", "l1", 179, torch.float32, steps=5, search_steps=0)
    assert ratio[178] <= 1.01


@pytest.mark.parametrize("name", BOTH)
def test_quadratics(name):
    found = quadratic_ratios(name, steps=30)
    assert found.min() >= 1 - 1e-9
    assert found.max() <= 1.01


@pytest.mark.parametrize("name", BOTH)
def test_stopping_at_epsilon_breaks_the_same_samples_for_fewer_rows(name):
    p = problems.linear_boxed(n=24)
    radii = tuple((p.radius["linf"] * (1.1 - 0.2 * (torch.arange(24) % 2))).tolist())
    threat, model = ThreatModel("linf", radii), Classifier(p.module)
    long = attack(name, model, p.x, p.y, threat, steps=10)
    short = attack(name, model, p.x, p.y, threat, steps=10, stop_at_epsilon=True)
    due = torch.arange(24) % 2 == 0
    assert torch.equal(long.verdict.success, due)
    assert torch.equal(short.verdict.success, due)
    assert (short.result.backward[due] < long.result.backward[due]).all()
    assert torch.equal(short.result.backward[~due], long.result.backward[~due])


def test_random_starts_depend_on_the_seed_and_more_restarts_contain_fewer():
    p = problems.smooth_cnn(torch.float64, n=8)
    model, facts = Classifier(p.module), {"steps": 5, "random_start": True}
    one = attack("fab", model, p.x, p.y, "l2:inf", **facts).verdict.distance
    other = attack("fab", model, p.x, p.y, "l2:inf", seed=1, **facts).verdict.distance
    three = attack("fab", model, p.x, p.y, "l2:inf", restarts=3, **facts).verdict.distance
    assert not torch.equal(one, other)
    assert (three <= one).all()


def test_classes_beyond_those_there_are_cost_nothing():
    p = problems.linear_boxed(n=4, classes=3)
    outcome = attack("fab_targeted", Classifier(p.module), p.x, p.y, "l2:inf", steps=5, search_steps=0)
    assert outcome.result.backward.tolist() == [10] * 4, "two other classes, five steps each"


def test_hyper_parameters_out_of_range_are_refused():
    p = problems.linear_binary("l2", n=1)
    wrong = {"most_pull": 1.5, "extrapolation": 0.9, "backward_share": 1.0, "search_steps": -1, "restarts": 0}
    for name in BOTH:
        for key, value in wrong.items():
            with pytest.raises(InvalidValue, match=key):
                attack(name, Classifier(p.module), p.x, p.y, "l2:inf", **{key: value})
    with pytest.raises(InvalidValue, match="num_classes"):
        attack("fab", Classifier(p.module), p.x, p.y, "l2:inf", num_classes=1)
    with pytest.raises(InvalidValue, match="num_targets"):
        attack("fab_targeted", Classifier(p.module), p.x, p.y, "l2:inf", num_targets=0)
