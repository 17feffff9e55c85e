"""SPSA and NES: their estimates, their budgets, closed forms, and models without gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from robustscope.attacks import finite_differences
from robustscope.attacks.ascent import Goal
from robustscope.attacks.compose import attack
from robustscope.attacks.finite_differences import Estimate
from robustscope.attacks.spsa import _signs
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data import problems
from robustscope.geometry.losses import objective
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier

NAMES = ("spsa", "nes")


def gaussian(draws, purpose, like):
    return draws.normal(purpose, like)


@pytest.mark.parametrize("directions", [_signs, gaussian])
def test_the_estimate_of_a_linear_model_is_its_gradient(directions, monkeypatch):
    """Also at the bounds, where points are clipped, and whether or not samples and directions are taken in groups."""
    p = problems.linear_boxed(n=4, classes=2)
    assert ((p.x == 0) | (p.x == 1)).any()
    model, threat, goal = Classifier(p.module), ThreatModel("linf", 0.1), Goal(objective("margin", 2), p.y)
    draws, how = Draws(0, (0, 1, 2, 3)), Estimate(20000, 0.01, directions)
    found = {}
    for values in (2**20, 48 * 3000):
        monkeypatch.setattr(finite_differences, "VALUES", values)
        found[values] = finite_differences.gradient(model, threat, goal, p.x, draws, how, "test")
        exact = model.gradient(goal.scores, p.x)[1]
        turned = torch.cosine_similarity(found[values].flatten(1), exact.flatten(1))
        assert (turned > 0.99).all()
        assert ((found[values] - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1) < 0.15).all()
    alone = finite_differences.gradient(
        model, threat, goal.select(torch.tensor([2])), p.x[2:3], Draws(0, (2,)), how, "test"
    )
    torch.testing.assert_close(alone, found[48 * 3000][2:3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_linear_classes_fall_at_the_edge_of_their_radius(name, norm):
    p = problems.linear_binary(norm, n=8)
    for factor, due in ((1.03, 8), (0.999, 0)):
        threat = ThreatModel(norm, factor * problems.RADII[norm])
        verdict = attack(name, Classifier(p.module), p.x, p.y, threat, queries=4000).verdict
        assert int(verdict.success.sum()) == due


@pytest.mark.parametrize("name", NAMES)
def test_the_box_binds(name):
    """Several classes, a third of the values on the bounds: nothing inside its radius falls, most at 1.2 times it do."""
    p = problems.linear_boxed(n=12)
    for norm in ("linf", "l2"):
        for factor, least, most in ((1.2, 8, 12), (0.999, 0, 0)):
            threat = ThreatModel(norm, tuple((factor * p.radius[norm]).tolist()))
            fallen = int(attack(name, Classifier(p.module), p.x, p.y, threat, queries=4000).verdict.success.sum())
            assert least <= fallen <= most, (norm, factor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("queries", "spent"), [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (21, 21), (22, 21), (100, 100)])
def test_the_budget_is_kept_to_the_row(name, queries, spent):
    """Rows come as one for an iterate and then pairs, so that of small budgets two rows may stay unspent."""
    asked = []
    p = problems.linear_boxed(n=3)
    box = BlackBox(lambda x: (asked.append(len(x)), p.module(x))[1], num_classes=4)
    result = attack(name, Classifier(box), p.x, p.y, "linf:1e-6", queries=queries, samples=10).result
    assert result.forward.tolist() == [spent] * 3
    assert sum(asked) == 3 * spent + 3, "the judge asks once more about each"


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_stops_at_its_first_adversarial_iterate(name):
    p = problems.linear_binary("linf", n=6)
    threat = ThreatModel("linf", tuple(factor * problems.RADII["linf"] for factor in (5, 3, 2, 1.5, 1.2, 0.5)))
    outcome = attack(name, Classifier(p.module), p.x, p.y, threat, queries=4000, samples=48)
    forward = outcome.result.forward
    assert outcome.verdict.success.tolist() == [True] * 5 + [False]
    assert (forward[:5] < 4000).all()
    assert 4000 - 1 <= forward[5] <= 4000
    assert (forward.diff() >= 0).all()
    misled = attack(name, Classifier(p.module), p.x, 1 - p.y, threat).result
    assert misled.forward.tolist() == [1] * 6
    assert torch.equal(misled.x_adv, p.x)


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_the_scores_does_not_matter(name):
    p = problems.linear_binary("linf", n=4)
    threat = ThreatModel("linf", 1.1 * problems.RADII["linf"])
    for factor in (1e-6, 1.0, 1e6):
        box = BlackBox(lambda x, factor=factor: p.module(x) * factor, num_classes=2)
        assert attack(name, Classifier(box), p.x, p.y, threat, queries=3000).verdict.success.all()


class Rounded(nn.Module):
    """A network behind inputs rounded to steps of 1/50."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x * 50).round() / 50)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_rounds_its_inputs_falls(name):
    """PGD sees gradients of zero and breaks nothing, and a black box refuses it; differences over 1/20 see the slope."""
    p = problems.smooth_cnn(torch.float64, n=16)
    module = Rounded(p.module).eval()
    y = Classifier(module).logits(p.x).argmax(1)
    box = Classifier(BlackBox(lambda a: module(torch.from_numpy(a)).numpy(), num_classes=4, numpy=True))
    open_door = attack("pgd", Classifier(module), p.x, y, "linf:0.1", random_start=False).verdict
    assert not open_door.success.any()
    with pytest.raises(InvalidValue, match="needs gradients"):
        attack("pgd", box, p.x, y, "linf:0.1")
    fallen = attack(name, box, p.x, y, "linf:0.1", queries=1500, spread=0.05).verdict.success
    due = attack("pgd", Classifier(p.module), p.x, p.y, "linf:0.1").verdict.success
    assert due.sum() >= 12
    assert fallen.sum() >= due.sum() - 2


class WinnersTakeAll(nn.Module):
    """Two layers whose hidden values are zero but for the largest eighth, which makes gradients useless."""

    def __init__(self, size=64, hidden=256, classes=4):
        super().__init__()
        generator = np.random.default_rng(0)
        self.first = torch.tensor(generator.normal(size=(size, hidden)) / size**0.5)
        self.second = torch.tensor(generator.normal(size=(hidden, classes)) / hidden**0.5)

    def forward(self, x):
        hidden = (x - 0.5) @ self.first
        least = hidden.topk(hidden.shape[1] // 8, dim=1).values[:, -1:]
        return torch.where(hidden >= least, hidden, 0) @ self.second


def test_kinks_mislead_gradients_more_than_differences():
    """k-WTA (Xiao et al. 2020), which Tramer et al. 2020 broke with differences: SPSA leaves fewer samples than PGD."""
    module = WinnersTakeAll().eval()
    x = torch.rand(48, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Classifier(module)
    y = model.logits(x).argmax(1)
    left = {
        name: int((~attack(name, model, x, y, "linf:0.03", **facts).verdict.success).sum())
        for name, facts in (("pgd", {"steps": 40}), ("spsa", {"spread": 0.02, "queries": 4000, "samples": 100}))
    }
    assert left["spsa"] < left["pgd"]


def test_bad_parameters_are_refused():
    p = problems.smooth_cnn(n=2)
    for name, facts in (
        ("spsa", {"samples": 3}),
        ("spsa", {"queries": 0}),
        ("spsa", {"spread": 0.0}),
        ("nes", {"samples": 0}),
        ("nes", {"momentum": 1.0}),
        ("nes", {"relative_step_size": -1.0}),
    ):
        with pytest.raises(InvalidValue, match=next(iter(facts))):
            attack(name, Classifier(p.module), p.x, p.y, "linf:0.1", **facts)
