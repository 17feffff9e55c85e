"""Certificates against closed forms on affine networks, and against all activation patterns of tiny ReLU networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from enumerated import fill, numbers, tiny_network, true_margin
from robustscope.certify import CERTIFIERS, certified_radius, certify
from robustscope.certify.bounds import backward, bound
from robustscope.certify.graph import trace
from robustscope.certify.layers import SIGMOID, SOFTPLUS, TANH
from robustscope.certify.margins import margin_forms
from robustscope.certify.region import Region
from robustscope.certify.relaxations import Clipped, Kinked, MaxPool
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import problems
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
CASES = [(card.name, norm) for card in CERTIFIERS if card.sound == "deterministic" for norm in card.norms]


# Affine networks: every method is exact.


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_margins_of_an_affine_network_are_exact(name, norm):
    problem = problems.linear_multiclass()
    weight, bias = (p.detach() for p in problem.module.parameters())
    model, epsilon = Classifier(problem.module), {"linf": 0.01, "l2": 0.1, "l1": 0.3}[norm]
    found = certify(name, model, problem.x, problem.y, ThreatModel(norm, epsilon))
    logits = problem.x.flatten(1) @ weight.T + bias
    expected = torch.stack(
        [
            logits.gather(1, problem.y[:, None])[:, 0]
            - logits[:, j]
            - epsilon * torch.linalg.vector_norm(weight[problem.y] - weight[j], DUAL[norm], dim=1)
            for j in range(len(weight))
        ],
        1,
    )
    expected[torch.arange(len(expected)), problem.y] = torch.inf
    assert torch.allclose(found.lower_margin, expected.amin(1), rtol=0, atol=1e-9)
    assert found.status == tuple("verified" if m > 0 else "unknown" for m in expected.amin(1).tolist())


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_bounds_of_the_inputs_are_used(name, norm):
    problem = problems.linear_boxed()
    model, exact = Classifier(problem.module), problem.radius[norm]
    for factor, due in ((0.999, "verified"), (1.001, "unknown")):
        threat = ThreatModel(norm, tuple((factor * exact).tolist()))
        assert set(certify(name, model, problem.x, problem.y, threat).status) == {due}


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_least_value_over_ball_and_box_together_is_exact(norm):
    x = problems._samples(0, 4, 7)
    forms = numbers("forms", 4, 5, 7)
    forms[0, 0], forms[1, 1, :5] = 0, 0
    for radius in (1e-3, 0.3, 0.8, 1.5, 9.0):
        threat = ThreatModel(norm, radius)
        region = Region.of(threat, x)
        for r in range(5):
            lowest = (forms[:, r] * balls.furthest(threat, x, -forms[:, r])).sum(1)
            found = region.least(forms, close=True)[:, r]
            assert bool((found <= lowest + 1e-12).all())
            assert torch.allclose(found, lowest, rtol=0, atol=1e-9)
        assert bool((region.least(forms) <= region.least(forms, close=True)).all())


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_the_certified_radius_of_an_affine_network_is_exact(name, norm):
    problem = problems.linear_multiclass()
    exact = problem.radius[norm]
    largest = 1.5 * float(exact.median())
    found = certified_radius(name, Classifier(problem.module), problem.x, problem.y, norm, largest=largest, halvings=9)
    expected = exact.clamp(max=largest)
    assert bool((found.radius <= expected + 1e-9).all())
    assert bool((found.radius >= expected - 1.01 * largest / 2**9).all())
    assert bool((found.refused > found.radius).all())
    assert bool((found.refused[exact > largest] == torch.inf).all())
    assert bool((found.lower_margin > 0).all())


def affine_but_deep():
    """Convolution, batch norm, averages, slices, padding, a shortcut and normalisation, without an activation."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(32, 3)

        def forward(self, x):
            x = self.one(x)
            y = x + self.norm(self.two(x))
            z = torch.cat([nn.functional.avg_pool2d(y, 2, 1), nn.functional.pad(y, (1, 0, 0, 1))[:, :, :2, :2]], 1)
            return self.last(2 * z.flatten(1) - 0.5)

    module = fill(Deep())
    module.norm.running_mean.copy_(numbers("mean", 4))
    module.norm.running_var.copy_(numbers("var", 4).abs() + 0.5)
    return module


@pytest.mark.parametrize(("name", "norm"), [case for case in CASES if case[0] != "ibp"])
def test_depth_costs_nothing_without_activations(name, norm):
    model = Classifier(affine_but_deep(), mean=(0.4, 0.6), std=(0.2, 0.3))
    x = 0.5 + 0.05 * numbers("x", 4, 2, 6, 6).clamp(-1, 1)
    logits, epsilon = model.logits(x), {"linf": 0.01, "l2": 0.05, "l1": 0.1}[norm]
    y = logits.argmax(1)
    leaf = x.clone().requires_grad_(True)
    jacobian = [
        torch.autograd.grad(model.module(model._normalise(leaf))[:, k].sum(), leaf)[0].flatten(1) for k in range(3)
    ]
    rows, best = torch.arange(4), torch.full((4,), torch.inf, dtype=torch.float64)
    stacked = torch.stack(jacobian, 1)
    for j in range(3):
        length = torch.linalg.vector_norm(stacked[rows, y] - stacked[:, j], DUAL[norm], dim=1)
        gap = logits[rows, y] - logits[:, j] - epsilon * length
        best = torch.where(y == j, best, torch.minimum(best, gap))
    found = certify(name, model, x, y, ThreatModel(norm, epsilon))
    assert torch.allclose(found.lower_margin, best, rtol=0, atol=1e-9)


# Tiny ReLU networks: the true minimum by one linear program for each activation pattern.


@pytest.fixture(scope="module")
def tiny():
    return tiny_network()


def test_no_bound_exceeds_the_true_minimum_and_each_method_is_in_its_place(tiny):
    model, x, y, truth = tiny
    closer = 0
    for epsilon, margins in truth.items():
        exact = torch.tensor(margins, dtype=torch.float64)
        threat = ThreatModel("linf", epsilon)
        found = {
            name: certify(name, model, x, y, threat, **more).lower_margin
            for name, more in (
                ("ibp", {}),
                ("deepz", {"stop_early": False}),
                ("crown", {"stop_early": False}),
                ("alpha_crown", {"steps": 40}),
            )
        }
        for margin in found.values():
            assert bool((margin <= exact + 1e-9).all())
        assert bool((found["ibp"] <= found["deepz"]).all())
        assert bool((found["ibp"] <= found["crown"]).all())
        assert found["ibp"].sum() < found["crown"].sum()
        early = certify("crown", model, x, y, threat).lower_margin
        assert bool((early <= found["crown"] + 1e-12).all())
        is_open = early <= 0
        assert bool((found["alpha_crown"] >= found["crown"] - 1e-12)[is_open].all())
        closer += int((found["alpha_crown"] > found["crown"] + 1e-6)[is_open].sum())
    assert closer > 0


def test_bounds_are_exact_where_no_sign_is_open():
    module = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), seed=1)
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in module if isinstance(m, nn.Linear)]
    x = torch.tensor([[0.5, 0.4, 0.6]], dtype=torch.float64)
    hidden = module[0](x).detach()
    epsilon = 0.9 * float((hidden.abs() / module[0].weight.detach().abs().sum(1)).min())
    assert epsilon > 1e-3
    y = module(x).argmax(1)
    exact = true_margin(layers, x[0], int(y), epsilon)
    for name in ("crown", "deepz"):
        found = certify(name, Classifier(module), x, y, ThreatModel("linf", epsilon), stop_early=False)
        assert found.lower_margin.item() == pytest.approx(exact, abs=1e-9)


def test_a_hidden_value_that_cancels_shows_what_each_method_loses():
    # f = relu(x + 1) - relu(x + 1) + 1 against 0: intervals do not see that both are the same, CROWN does.
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    with torch.no_grad():
        module[0].weight.fill_(1)
        module[0].bias.fill_(1)
        module[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        module[2].bias.copy_(torch.tensor([0.5, 0.0]))
    model, x, y = Classifier(module), torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    threat = ThreatModel("linf", 0.5)
    assert certify("ibp", model, x, y, threat).lower_margin.item() == pytest.approx(-0.5)
    for name in ("crown", "deepz"):
        assert certify(name, model, x, y, threat).lower_margin.item() == pytest.approx(0.5)


def reference(layers, x, epsilon, y):
    """CROWN as the paper writes it, in NumPy with dense matrices, one value after the other: all margins but the own."""
    low, high = np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1)
    spans = []

    def lower(row, offset, depth):
        """Return the least value of ``row`` @ (value after ``depth`` activations) + offset."""
        for (w, b), (under, over) in zip(layers[:depth][::-1], spans[:depth][::-1], strict=True):
            part = np.zeros_like(row)
            for i, a in enumerate(row):
                if under[i] >= 0:
                    part[i] = a
                elif over[i] > 0 and a < 0:
                    part[i], offset = (
                        a * over[i] / (over[i] - under[i]),
                        offset - a * over[i] * under[i] / (over[i] - under[i]),
                    )
                elif over[i] > 0:
                    part[i] = a if over[i] > -under[i] else 0
            row, offset = part @ w, offset + part @ b
        return np.minimum(row * low, row * high).sum() + offset

    before = (low, high)
    for depth, (w, b) in enumerate(layers[:-1]):
        boxed = (
            np.maximum(w, 0) @ before[0] + np.minimum(w, 0) @ before[1] + b,
            np.maximum(w, 0) @ before[1] + np.minimum(w, 0) @ before[0] + b,
        )
        under = np.maximum([lower(row, c, depth) for row, c in zip(w, b, strict=True)], boxed[0])
        over = np.minimum([-lower(-row, -c, depth) for row, c in zip(w, b, strict=True)], boxed[1])
        spans.append((under, over))
        before = np.maximum(under, 0), np.maximum(over, 0)
    w, b = layers[-1]
    return [lower(w[y] - w[j], b[y] - b[j], len(layers) - 1) for j in range(len(b)) if j != y]


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
def test_crown_is_the_paper_s(epsilon):
    module = fill(
        nn.Sequential(
            nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 4)
        ),
        scale=1.5,
    )
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in module if isinstance(m, nn.Linear)]
    x = problems._samples(1, 5, 6)
    x[0, :3] = x[0, :3].round()
    y = module(x).argmax(1)
    graph, _ = trace(Classifier(module), x)
    bounds = bound(graph, Region.of(ThreatModel("linf", epsilon), x), "crown")
    found = backward(bounds, len(graph.nodes) - 1, margin_forms(graph, y, x))
    expected = [reference(layers, v.numpy(), epsilon, int(c)) for v, c in zip(x, y, strict=True)]
    assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-9)
    assert bool((bounds.rows > 0).any()) or epsilon < 0.02


# Lines and bands enclose their maps.

MAPS = [Kinked(), Kinked(0.2), Clipped(0.0, 6.0), Clipped(-1.0, 1.0), SIGMOID, TANH, SOFTPLUS]


def intervals():
    ends = numbers("ends", 400, 2) * torch.tensor([0.3, 1.0, 3.0, 10.0]).double().repeat(100)[:, None]
    ends[::7] = ends[::7].round()
    lower, upper = ends.amin(1), ends.amax(1)
    return torch.cat([lower, lower, torch.zeros(2).double()]), torch.cat([upper, lower, torch.zeros(2).double()])


@pytest.mark.parametrize("operation", MAPS, ids=lambda o: f"{o.name}{getattr(o, 'slope', '')}")
def test_lines_and_bands_enclose(operation):
    lower, upper = intervals()
    z = lower + (upper - lower) * torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    value, lines, band = operation.value(z), operation.lines(lower, upper), operation.band(lower, upper)
    # Softplus is a straight line in torch beyond 20, where it should be 2e-9 more.
    tolerance = 4e-9 if operation is SOFTPLUS else 1e-12
    assert bool((lines.lower_slope * z + lines.lower_offset <= value + tolerance).all())
    assert bool((lines.upper_slope * z + lines.upper_offset >= value - tolerance).all())
    assert bool(((value - band.slope * z - band.middle).abs() <= band.radius + tolerance).all())
    # Neither is idle: lines touch their map somewhere, bands on both sides.
    assert float((value - lines.lower_slope * z - lines.lower_offset).amin(0).max()) < 1e-3
    assert float((lines.upper_slope * z + lines.upper_offset - value).amin(0).max()) < 1e-3
    assert (
        float(((value - band.slope * z - band.middle).amax(0) - band.radius).abs().max()) < 0.05
    )  # kinks fall between the points


def test_the_relu_has_the_lines_of_the_papers():
    lower, upper = torch.tensor([-1.0, -3.0, 1.0, -2.0]), torch.tensor([3.0, 1.0, 2.0, -1.0])
    lines, band = Kinked().lines(lower, upper), Kinked().band(lower, upper)
    assert lines.lower_slope.tolist() == [1, 0, 1, 0]
    assert lines.upper_slope.tolist() == [0.75, 0.25, 1, 0]
    assert lines.upper_offset.tolist() == [0.75, 0.75, 0, 0]
    assert band.slope.tolist() == [0.75, 0.25, 1, 0]
    assert band.middle.tolist() == band.radius.tolist() == [0.375, 0.375, 0, 0]


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), [(2, 2, 0, False), (3, 2, 1, False), (3, 2, 0, True)])
def test_the_winner_of_a_window(kernel, stride, padding, ceil):
    lower = numbers("lower", 3, 2, 6, 6)
    upper = lower + numbers("width", 3, 2, 6, 6).abs() / 4
    pool = MaxPool((kernel,) * 2, (stride,) * 2, (padding,) * 2, ceil, (2, 6, 6))
    winner, sure = pool.winners(lower, upper)
    best = pool.value(lower)
    assert torch.equal(lower.flatten(2).gather(2, winner).view_as(best), best)
    for b, c, i, j in itertools.product(range(3), range(2), range(best.shape[2]), range(best.shape[3])):
        rows, columns = (range(max(k * stride - padding, 0), min(k * stride - padding + kernel, 6)) for k in (i, j))
        at = int(winner[b, c].view(best.shape[2:])[i, j])
        others = [float(upper[b, c, r, s]) for r in rows for s in columns if r * 6 + s != at]
        assert at in [r * 6 + s for r in rows for s in columns]
        assert bool(sure[b, c].view(best.shape[2:])[i, j]) == (max(others, default=-9) <= float(best[b, c, i, j]))
    assert 0 < int(sure.sum()) < sure.numel()


def test_radii_and_bounds_of_their_own():
    problem = problems.linear_multiclass()
    model = Classifier(problem.module, Bounds(-1.0, 2.0))
    radii = tuple((problem.radius["linf"] * torch.tensor([0.9, 1.1] * 4)).tolist())
    found = certify("crown", model, problem.x, problem.y, ThreatModel("linf", radii, Bounds(-1.0, 2.0)))
    assert found.status == ("verified", "unknown") * 4
