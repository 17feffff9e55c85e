"""Carlini and Wagner's l2 attack against closed forms."""

import math

import pytest
import torch

from digits_bed import digits, quantile, ratios
from robustscope.attacks.compose import attack
from robustscope.attacks.confident import ConfidentSearch
from robustscope.attacks.constants import LARGEST, ConstantSearch
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry.losses import margin
from robustscope.models.classifier import Classifier

INF = ThreatModel("l2", math.inf)


def test_digits_untargeted():
    """The specification measured, on 200 digits and 9 x 1000 steps, mean 1.0218, median 1.0004, 90 % 1.056.

    The same run here gives 1.0219, 1.0007 and 1.056 (1.0217 and 1.0004 without early stop); this is its smaller twin,
    which ends early enough to keep a part of the distance.
    """
    ratio, _ = ratios("cw_l2", "l2", 24, steps=500, search_steps=5, initial_constant=0.1)
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= 1.01
    assert quantile(ratio, 0.9) <= 1.2


def test_digits_best_of_targeted_reaches_the_exact_radius():
    """What is left is the wrong nearest class: with nine targets 99 % of 200 digits come to 1.0032 (full size)."""
    model, x, y, radius = digits("l2", 10)
    goals = torch.cat([(y + k) % 10 for k in range(1, 10)])
    facts = {"steps": 400, "search_steps": 5, "initial_constant": 0.3}
    found = attack("cw_l2", model, x.repeat(9, 1), y.repeat(9), INF, targets=goals, **facts).verdict
    best = torch.where(found.success, found.distance, math.inf).view(9, 10).amin(0) / radius
    assert best.min() >= 1 - 1e-6
    assert best.max() <= 1.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxed_problem(dtype):
    p = problems.linear_boxed(dtype, n=12, classes=2)
    outcome = attack("cw_l2", Classifier(p.module), p.x, p.y, INF, steps=400, initial_constant=0.1, search_steps=6)
    ratio = outcome.verdict.distance / p.radius["l2"]
    assert outcome.verdict.success.all()
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.01


@pytest.mark.parametrize("confidence", [0.0, 0.5, 2.0])
def test_confidence_moves_the_boundary(confidence):
    """O1: on two linear classes the distance is (margin + confidence) / ||w||_2 exactly."""
    p = problems.linear_binary("l2", n=6)
    model = Classifier(p.module)
    weight = p.module[1].weight.detach()
    due = (margin(model.logits(p.x), p.y) + confidence) / (weight[0] - weight[1]).norm()
    outcome = attack(
        "cw_l2", model, p.x, p.y, INF, confidence=confidence, steps=300, initial_constant=0.1, search_steps=6
    )
    assert (-outcome.verdict.margin >= confidence - 1e-9).all()
    torch.testing.assert_close(outcome.verdict.distance, due, rtol=5e-3, atol=0)
    assert (outcome.verdict.distance >= due * (1 - 1e-9)).all()


def test_other_bounds_give_the_same_examples_in_their_units():
    p = problems.linear_boxed(n=6, classes=3)
    wide = Bounds(-2.0, 6.0)

    class Unscale(torch.nn.Module):
        def forward(self, x):
            return p.module((x + 2) / 8)

    facts = {"steps": 100, "search_steps": 5, "initial_constant": 0.1}
    unit = attack("cw_l2", Classifier(p.module), p.x, p.y, INF, **facts)
    other = attack(
        "cw_l2", Classifier(Unscale().eval(), wide), p.x * 8 - 2, p.y, ThreatModel("l2", math.inf, wide), **facts
    )
    torch.testing.assert_close(other.verdict.distance, 8 * unit.verdict.distance, rtol=1e-6, atol=0)


def test_shifted_logits_change_nothing():
    """A popular implementation takes zero for the best other class and loses every success when logits are negative."""
    model, x, y, _ = digits("l2", 8)

    class Shifted(torch.nn.Module):
        def forward(self, x):
            return model.module(x) - 100

    facts = {"steps": 100, "search_steps": 4, "initial_constant": 0.1}
    plain = attack("cw_l2", model, x, y, INF, **facts).verdict
    shifted = attack("cw_l2", Classifier(Shifted().eval()), x, y, INF, **facts).verdict
    assert shifted.success.all()
    torch.testing.assert_close(shifted.distance, plain.distance, rtol=1e-5, atol=0)


def test_saturated_values_move():
    x = torch.zeros(1, 4, dtype=torch.float64)
    layer = torch.nn.Linear(4, 2, dtype=torch.float64)
    layer.weight.data = torch.tensor([[0.0] * 4, [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([0.5, 0.0], dtype=torch.float64)
    outcome = attack("cw_l2", Classifier(layer.eval()), x, torch.tensor([0]), INF)
    assert float(outcome.verdict.distance) == pytest.approx(0.5 / math.sqrt(2), rel=1e-3)


def test_finite_radius_keeps_what_lies_inside_and_never_raises():
    p = problems.linear_boxed(n=8, classes=2)
    radii = tuple((p.radius["l2"] * torch.tensor([0.5, 1.05] * 4)).tolist())
    facts = {"steps": 300, "search_steps": 6, "initial_constant": 0.1}
    outcome = attack("cw_l2", Classifier(p.module), p.x, p.y, ThreatModel("l2", radii), **facts)
    assert outcome.verdict.success.tolist() == [False, True] * 4


def test_already_adversarial_inputs_cost_one_row():
    p = problems.linear_binary("l2", n=4)
    result = attack("cw_l2", Classifier(p.module), p.x, 1 - p.y, INF).result
    assert torch.equal(result.x_adv, p.x)
    assert (result.forward.tolist(), result.backward.tolist()) == ([1] * 4, [0] * 4)


def test_the_search_for_the_constant_is_the_authors():
    """Failures multiply by ten until the first success, then the interval is bisected; each sample on its own."""
    search = ConstantSearch.begin(torch.zeros(3, 2), 1.0, 6)
    wins = {1: 1.0, 2: 100.0, 3: math.inf}  # smallest constants that succeed
    seen = [search.constant.tolist()]
    for _ in range(6):
        through = search.advance(torch.ones(3, dtype=torch.bool), search.constant >= torch.tensor(list(wins.values())))
        seen.append(search.constant.tolist())
    assert through.all()
    first, second, third = zip(*seen[:6])
    assert first == (1.0, 0.5, 0.75, 0.875, 0.9375, 0.96875)
    assert second == (1.0, 10.0, 100.0, 55.0, 77.5, 88.75)
    assert third == (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    assert search.high.tolist() == [1.0, 100.0, LARGEST]
    repeat = ConstantSearch.begin(torch.zeros(1, 2), 1.0, 10)
    for _ in range(9):
        repeat.advance(torch.ones(1, dtype=torch.bool), repeat.constant >= 0.9)
    assert float(repeat.constant) == float(repeat.high), "the last of ten steps repeats the smallest success"


def test_one_sample_waits_for_no_other():
    search = ConstantSearch.begin(torch.zeros(2, 2), 1.0, 2)
    through = search.advance(torch.tensor([True, False]), torch.tensor([True, True]))
    assert search.constant.tolist() == [0.5, 1.0]
    assert through.tolist() == [False, False]
    assert search.select(torch.tensor([1])).number.tolist() == [0]


def test_a_confident_search_keeps_only_what_wins_by_the_margin():
    layer = torch.nn.Linear(1, 2, dtype=torch.float64)
    layer.weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([0.5, 0.0], dtype=torch.float64)
    search = ConfidentSearch(
        Classifier(layer.eval()), torch.full((1, 1), 0.6).double(), torch.tensor([0]), INF, None, 0.2
    )
    rows = search.start()
    assert rows.tolist() == [0], "the clean input is misclassified, but by 0.1 only"
    for value, counts, kept in ((0.65, False, math.inf), (0.8, True, 0.2), (0.71, True, 0.11), (0.62, False, 0.11)):
        _, won = search.logits(rows, torch.tensor([[value]], dtype=torch.float64))
        assert won.tolist() == [counts]
        assert float(search.distance) == pytest.approx(kept, abs=1e-6)


def test_bad_hyper_parameters_are_refused():
    p = problems.linear_binary("l2", n=2)
    for facts in (
        {"steps": 0},
        {"step_size": -1.0},
        {"confidence": -0.1},
        {"confidence": math.nan},
        {"search_steps": 0},
    ):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack("cw_l2", Classifier(p.module), p.x, p.y, INF, **facts)
