"""HopSkipJump and Boundary: closed forms, exact budgets, starts, and that nothing but classes is used."""

import math

import pytest
import torch
from torch import nn

from digits_bed import quantile, ratios
from robustscope.attacks import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.attacks.decision_search import OUTWARD, DecisionSearch, between, bisect, find_starts
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier

CASES = [("hopskipjump", "l2"), ("hopskipjump", "linf"), ("boundary", "l2")]
DECISIONS = [(card.name, norm) for card in ATTACKS if card.access == "decisions" for norm in card.norms]
INF = math.inf


class OneHot(nn.Module):
    """Tells the class of a network and nothing else: the two largest differences of its scores are constants."""

    def __init__(self, inner, height):
        super().__init__()
        self.inner, self.height = inner, height

    def forward(self, x):
        logits = self.inner(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype) * self.height


# Only decisions.


@pytest.mark.parametrize(("name", "norm"), DECISIONS)
def test_an_attack_on_decisions_sees_nothing_but_classes(name, norm):
    """Scores of any kind with the same largest one change no bit of the result, nor a single count."""
    p = problems.smooth_cnn(torch.float64, n=6)
    threat = ThreatModel(norm, {"linf": 0.07, "l2": 0.48, "l1": 1.5, "l0": 6.0}[norm])
    facts = dict(ATTACKS[name].quick)
    modules = (p.module, OneHot(p.module, 1.0), OneHot(p.module, 1e-7), OneHot(p.module, 1e7))
    found = [attack(name, Classifier(module.eval()), p.x, p.y, threat, **facts).result for module in modules]
    for other in found[1:]:
        assert torch.equal(other.x_adv, found[0].x_adv)
        assert torch.equal(other.forward, found[0].forward)


def test_the_check_of_decisions_has_teeth():
    p = problems.smooth_cnn(torch.float64, n=6)
    facts = {"queries": 60}
    plain, bare = (
        attack("square", Classifier(module.eval()), p.x, p.y, "linf:0.02", **facts).result
        for module in (p.module, OneHot(p.module, 1.0))
    )
    assert not torch.equal(plain.x_adv, bare.x_adv), "an attack on scores is found out"


# Closed forms.


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_plane_is_met(name, norm):
    """Never nearer than the exact distance, within 3 % of it after 3,000 queries, and nearer with more of them."""
    p = problems.linear_binary(norm, n=8)
    found = []
    for queries in (300, 3000):
        verdict = attack(name, Classifier(p.module), p.x, p.y, ThreatModel(norm, INF), queries=queries).verdict
        assert verdict.success.all()
        found.append(verdict.distance / problems.RADII[norm])
        assert found[-1].min() >= 1 - 1e-9
    assert found[1].max() <= 1.03
    assert found[1].median() < found[0].median() <= 1.6


@pytest.mark.parametrize(
    ("name", "norm", "median", "tail"),
    [("hopskipjump", "l2", 1.3, 1.7), ("hopskipjump", "linf", 1.35, 1.9), ("boundary", "l2", 1.25, 1.7)],
)
def test_digits_in_the_box(name, norm, median, tail):
    """Ten linear classes, most values on the bounds; what remains above 1 is mostly another class than the nearest."""
    ratio, _ = ratios(name, norm, 100, torch.float32, queries=2500)
    assert ratio.isfinite().all()
    assert ratio.min() >= 1 - 1e-6
    assert quantile(ratio, 0.5) <= median
    assert quantile(ratio, 0.95) <= tail


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_finite_radius_decides(name, norm):
    p = problems.linear_binary(norm, n=4)
    for factor, due in ((1.1, 4), (0.99, 0)):
        threat = ThreatModel(norm, factor * problems.RADII[norm])
        outcome = attack(name, Classifier(p.module), p.x, p.y, threat, queries=1500, stop_at_epsilon=True)
        assert int(outcome.verdict.success.sum()) == due
        assert bool((outcome.result.forward < 1500).all()) == bool(due)
        assert balls.contains(threat, p.x, outcome.result.x_adv).all()


# Budgets.


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("queries", [1, 2, 5, 17, 60, 333])
def test_the_budget_is_spent_to_the_row_and_never_more(name, norm, queries):
    asked = []
    p = problems.smooth_cnn(torch.float64, n=5)
    box = BlackBox(lambda x: (asked.append(len(x)), p.module(x).argmax(1))[1], num_classes=4, answers="labels")
    outcome = attack(name, Classifier(box), p.x, p.y, f"{norm}:inf", queries=queries)
    assert outcome.result.forward.tolist() == [queries] * 5
    judged = 5 + 2 * int(outcome.verdict.success.sum())  # examples once more rounded, and once more alone
    assert sum(asked) == 5 * queries + judged
    unbroken = ~outcome.verdict.success
    assert torch.equal(outcome.result.x_adv[unbroken], p.x[unbroken])


def test_the_last_query_moves_the_example_off_the_boundary():
    """A bisection to the last digit ends where rounding decides: so near that a batch of another size may disagree."""
    p = problems.linear_binary("l2", n=8)
    ball = ThreatModel("l2", INF)
    search = DecisionSearch(Classifier(p.module), p.x, p.y, ball, None, 60, stop_at_epsilon=False)
    _, far = find_starts(search, None, Draws(0, tuple(range(8))), 20)
    rows = torch.arange(8)
    bisect(search, rows, far, 1e-9)
    margin = p.module(search.x_adv).diff(dim=1).abs()[:, 0]
    near, spent = search.distance.clone(), search.forward.clone()
    search.move_off()
    assert (p.module(search.x_adv).diff(dim=1).abs()[:, 0] > 50 * margin).all()
    torch.testing.assert_close(search.distance, near * (1 + OUTWARD), rtol=1e-9, atol=0)
    assert torch.equal(search.forward, spent + 1)
    search.queries = 0
    search.move_off()
    assert torch.equal(search.forward, spent + 1), "without a query left nothing is asked"
    # What lies within the radius is not moved out of it.
    tight = ThreatModel("l2", tuple(search.distance.tolist()))
    search.threat, search.queries = tight, 100
    before = search.x_adv.clone()
    search.move_off()
    assert torch.equal(search.x_adv, before)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_cannot_be_found_is_not_claimed(name, norm):
    """A model of one class has no adversarial start: the tries are spent, and x comes back."""
    p = problems.constant(n=3)
    outcome = attack(name, Classifier(p.module), p.x, p.y, f"{norm}:inf", queries=1000, tries=20)
    assert torch.equal(outcome.result.x_adv, p.x)
    assert outcome.result.forward.tolist() == [21] * 3
    assert not outcome.verdict.success.any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_what_is_misclassified_costs_one_query(name, norm):
    p = problems.linear_boxed(n=3, classes=2)
    outcome = attack(name, Classifier(p.module), p.x, 1 - p.y, f"{norm}:inf")
    assert outcome.result.forward.tolist() == [1] * 3
    assert torch.equal(outcome.result.x_adv, p.x)
    assert outcome.verdict.success.all()


# Starts.


class Needle(nn.Module):
    """Class 1 where the mean of the values is at least 0.95, else class 0: random pictures never get there."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.95), mean], 1)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_a_given_start_is_used(name, norm):
    model, x = Classifier(Needle().eval()), torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    without = attack(name, model, x, y, f"{norm}:inf", queries=400)
    assert not without.verdict.success.any()
    starts = torch.stack([torch.ones_like(x[0]), torch.zeros_like(x[0])])
    verdict = attack(name, model, x, y, f"{norm}:inf", queries=400, starts=starts).verdict
    assert verdict.success.tolist() == [True, False], "a start of the wrong class helps no one"
    exact = 0.45 if norm == "linf" else 0.45 * 4
    assert exact - 1e-9 <= float(verdict.distance[0]) <= 1.02 * exact
    with pytest.raises(InvalidValue, match="starts of shape"):
        attack(name, model, x, y, f"{norm}:inf", starts=starts[:1])
    with pytest.raises(InvalidValue, match="inside the bounds"):
        attack(name, model, x, y, f"{norm}:inf", starts=starts + 1)
    with pytest.raises(InvalidType, match="float32"):
        attack(name, model, x, y, f"{norm}:inf", starts=starts.float())
    with pytest.raises(InvalidType, match="starts="):
        attack(name, model, x, y, f"{norm}:inf", starts="there")


def test_the_way_back_is_straight_or_a_box():
    x, far = torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.3]])
    torch.testing.assert_close(between("l2", x, far, torch.tensor([0.25])), torch.tensor([[0.25, 0.45]]))
    torch.testing.assert_close(between("linf", x, far, torch.tensor([0.25])), torch.tensor([[0.25, 0.3]]))


@pytest.mark.parametrize("shape", [(7,), (1, 1, 1), (3, 2, 9), (2, 3, 4, 5)])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_any_shape_and_both_types(name, norm, shape):
    size = torch.Size(shape).numel()
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(3, *shape, generator=generator, dtype=torch.float64).to(dtype)
        layer = nn.Linear(size, 3, dtype=dtype)
        layer.weight.data = torch.randn(3, size, generator=generator, dtype=torch.float64).to(dtype)
        layer.bias.data = -layer.weight.data.sum(1) / 2
        model = Classifier(nn.Sequential(nn.Flatten(), layer).eval())
        outcome = attack(name, model, x, model.logits(x).argmax(1), f"{norm}:inf", queries=100)
        assert outcome.result.x_adv.shape == x.shape
        assert outcome.result.x_adv.dtype == dtype


def test_bad_parameters_are_refused():
    p = problems.smooth_cnn(n=2)
    for name, facts in (
        ("hopskipjump", {"queries": 0}),
        ("hopskipjump", {"momentum": 1.0}),
        ("hopskipjump", {"initial_samples": 0}),
        ("boundary", {"sideways_step": 0.0}),
        ("boundary", {"tries": 0}),
    ):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack(name, Classifier(p.module), p.x, p.y, "l2:inf", **facts)
