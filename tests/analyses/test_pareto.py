"""Frontier, fit, curves: brute force, planted values, published logs."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustscope.analyses.pareto import dominance, frontier, frontier_table, log_linear_fit, objections
from robustscope.analyses.training_curves import best_for_cost, robust_overfitting, trade_off
from robustscope.core.errors import InvalidValue


def brute(points):
    def beats(a, b):
        return all(u >= v for u, v in zip(a, b, strict=True)) and any(u > v for u, v in zip(a, b, strict=True))

    return [not any(beats(other, point) for other in points) for point in points]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_the_frontier_by_brute_force_with_ties(seed, kinds):
    points = np.random.default_rng(seed).integers(0, 4, (15, kinds)).astype(float)
    assert frontier(points).tolist() == brute(points.tolist())
    over = dominance(points)
    assert not (over & over.T).any()


def test_a_frontier_that_forgets_ties_is_caught():
    """The usual sweep with > alone drops one of two equal models."""
    points = [[0.8, 0.3], [0.8, 0.3], [0.9, 0.1]]
    swept, best = [], -math.inf
    for place in sorted(range(3), key=lambda i: (-points[i][0], -points[i][1])):
        if points[place][1] > best:
            swept.append(place)
            best = points[place][1]
    assert sorted(swept) != np.flatnonzero(frontier(points)).tolist() == [0, 1, 2]


def test_the_table_names_who_dominates():
    table = pd.DataFrame({"clean": [0.9, 0.8, 0.7], "error": [0.9, 0.7, 0.8]}, index=["a", "b", "c"])
    found = frontier_table(table, {"clean": True, "error": False})
    assert found["on_frontier"].tolist() == [True, True, False]
    assert found["dominated_by"].tolist() == [(), (), ("b",)]


@pytest.mark.parametrize(("a", "b"), [(6.2, 2.9), (0.0, -1.0), (3.0, 0.0)])
def test_a_planted_fit_is_recovered(a, b):
    error = np.array([0.43, 0.29, 0.31, 0.22, 0.19])
    found = log_linear_fit(error, a + b * np.log(error))
    assert found.intercept == pytest.approx(a, abs=1e-10)
    assert found.slope == pytest.approx(b, abs=1e-10)
    assert found.r_squared == pytest.approx(1)
    assert found.expected(0.1) == pytest.approx(a + b * math.log(0.1))


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_that_of_others(seed):
    rng = np.random.default_rng(seed)
    error, noise = rng.uniform(0.1, 0.9, 12), rng.normal(size=12)
    y = 1 + 0.5 * np.log(error) + 0.3 * noise
    found, theirs = log_linear_fit(error, y), stats.linregress(np.log(error), y)
    assert (found.slope, found.intercept, found.p) == pytest.approx((theirs.slope, theirs.intercept, theirs.pvalue))
    assert found.r_squared == pytest.approx(theirs.rvalue**2)
    assert found.high - found.slope == pytest.approx(stats.t.ppf(0.975, 10) * theirs.stderr)
    whole = np.column_stack([np.ones(12), np.log(error)])
    for i in range(12):  # Cook's distance from its definition: how far all fitted values move
        rest = log_linear_fit(np.delete(error, i), np.delete(y, i))
        moved = whole @ [found.intercept - rest.intercept, found.slope - rest.slope]
        variance = ((y - found.intercept - found.slope * np.log(error)) ** 2).sum() / 10
        assert found.cook[i] == pytest.approx((moved**2).sum() / (2 * variance))


def models():
    """Two old networks carry the fit; among the others, more accurate ones are harder to attack."""
    rows = {
        "alexnet": (0.43, 3.0, "old"),
        "vgg16": (0.40, 2.8, "old"),
        "resnet50": (0.27, 1.00, "resnet"),
        "resnet101": (0.25, 1.05, "resnet"),
        "resnet152": (0.24, 1.12, "resnet"),
        "inception": (0.22, 1.16, "inception"),
        "inception4": (0.20, 1.21, "inception"),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["error", "distortion", "family"])


def test_the_objections_to_a_fit_that_two_models_carry():
    found = objections(models()).set_index("left_out")
    whole = found.iloc[0]
    assert whole["slope"] > 0
    assert whole["p"] < 0.01
    assert whole["rank_correlation"] < 0.2
    without = found.loc["family old"]
    assert without["slope"] < 0
    assert without["p"] < 0.05
    assert without["rank_correlation"] == pytest.approx(1)
    assert found.loc["all but resnet", "slope"] < 0
    assert "for a fit" in found.loc["all but old", "reason"]
    assert found.loc["all but old", ["slope", "p"]].isna().all()
    by_cook = found["cook"].astype(float).idxmax()
    assert by_cook in ("model alexnet", "model vgg16", "model inception4")
    assert len(found) == 1 + 7 + 6


def test_a_fit_without_errors_has_no_influence():
    assert log_linear_fit([0.5, 0.25, 0.125], [1.0, 0.0, -1.0]).cook.tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_overfitting_of_the_published_log():
    """The l_inf run of Rice et al.: 53.49 % at its best, 45.59 % at the end, 81.08 % on training data."""
    test = np.interp(np.arange(200), [0, 106, 199], [0.3, 0.5349, 0.4559])
    train = np.interp(np.arange(200), [0, 199], [0.3, 0.8108])
    found = robust_overfitting(test, train=train)
    assert (found.best_epoch, found.best, found.final) == (106, 0.5349, 0.4559)
    assert found.gap == pytest.approx(0.079)
    assert found.generalisation_gap == pytest.approx(0.3549)


def test_the_epoch_is_chosen_by_held_out_data():
    found = robust_overfitting([0.3, 0.6, 0.5, 0.4], held_out=[0.3, 0.5, 0.55, 0.55])
    assert (found.best_epoch, found.best) == (2, 0.5)  # the first of equal ones, and not the best of the test
    assert found.gap == pytest.approx(0.1)
    assert found.generalisation_gap is None
    assert robust_overfitting([0.3, 0.6, 0.5, 0.4]).best == 0.6  # chosen by the test itself, it flatters


def test_the_trade_off_by_hand():
    table = trade_off([0.9, 0.8, 0.85, 0.7], [0.4, 0.5, 0.3, 0.6])
    assert table["place"].tolist() == [0, 2, 1, 3]
    assert table["frontier"].tolist() == [True, False, True, True]
    assert table["price"].isna().tolist() == [True, True, False, False]
    assert table["price"][2] == pytest.approx(1.0)
    assert table["price"][3] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_for_a_cost_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    cost, value = rng.integers(0, 5, (2, 12)).astype(float)
    found = best_for_cost(cost, value)
    for c in range(5):
        seen = value[cost <= c]
        mine = found[found["cost"] <= c]["value"]
        assert (mine.max() if len(mine) else None) == (seen.max() if len(seen) else None)
    assert all(a < b for a, b in itertools.pairwise(found["cost"]))
    assert all(a < b for a, b in itertools.pairwise(found["value"]))


def test_the_cost_of_free_training():
    """Passes of a visit and PGD-20 accuracy as published: FREE-8 is cheaper and better than PGD-7 there."""
    found = best_for_cost([1, 2, 4, 8, 10, 80], [0.0, 0.3341, 0.4073, 0.4633, 0.4594, 0.4553])
    assert found["place"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: frontier([]), "one or more models"),
        (lambda: frontier([[0.1, math.nan]]), "with gaps"),
        (lambda: log_linear_fit([0.5, 0.4], [1, 2]), "three or more"),
        (lambda: log_linear_fit([0.5, 0.4, 0], [1, 2, 3]), "errors in"),
        (lambda: log_linear_fit([50, 40, 30], [1, 2, 3]), "not percent"),
        (lambda: log_linear_fit([0.5, 0.5, 0.5], [1, 2, 3]), "that differ"),
        (lambda: robust_overfitting([]), "at least one"),
        (lambda: robust_overfitting([0.1, 0.2], held_out=[0.1]), "equally many"),
        (lambda: robust_overfitting([53.0]), "Divide percents"),
        (lambda: trade_off([0.5], [0.5, 0.6]), "equally many"),
        (lambda: best_for_cost([1], [math.inf]), "finite"),
        (lambda: best_for_cost([-1], [0.5]), "costs >= 0"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises(InvalidValue, match=says):
        call()
