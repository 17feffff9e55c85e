"""Feature data sets: linear networks, whose inversions and targets are known, and what standard training learns from them."""

import itertools
import math
from functools import cache

import pytest
import torch
from scipy import stats
from torch import nn

from benchmark_nets import mlp, train
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, UnknownName
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.models.features import penultimate
from robustscope.models.loading import load_model
from robustscope.probes.why import WHY
from robustscope.probes.why._usefulness import linear_usefulness, robust_covariance, robust_deviation
from robustscope.probes.why.feature_inversion import invert, inverted_set, targeted_set

WIDE = Bounds(-100.0, 100.0)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(first, second, bounds=WIDE):
    """A network of two linear layers without anything between."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype) for w in (first, second)]
    for layer, weight in zip(layers, (first, second), strict=True):
        layer.weight.data = weight.clone()
    return Classifier(nn.Sequential(*layers).eval(), bounds=bounds)


def test_the_inversion_of_a_linear_layer():
    """Gradient steps never leave x0 + the rows of W, and end at x0 + W^+ W (x - x0), within one step."""
    weight = torch.linalg.qr(noise(8, 3))[0].T  # orthonormal rows: the way is straight
    model = linear(weight, noise(4, 3, seed=1))
    x, starts = noise(5, 8, seed=2), noise(5, 8, seed=3)
    found, before, after = invert(model, x, starts, steps=400, step_size=0.02)
    exact = starts + (x - starts) @ weight.T @ weight
    assert (found - exact).norm(dim=1).max() < 0.02
    moved = found - starts
    assert torch.allclose(moved, moved @ weight.T @ weight, atol=1e-12)
    assert torch.allclose(before, ((x - starts) @ weight.T).norm(dim=1))
    assert torch.allclose(after, ((x - found) @ weight.T).norm(dim=1), atol=1e-7)
    assert model.ledger.forward == 5 * 402  # the features, 400 steps, the end
    assert model.ledger.backward == 5 * 401


def test_an_input_that_has_the_features_already_stays():
    model = linear(noise(3, 8), noise(4, 3))
    x = noise(5, 8, seed=2)
    found, before, after = invert(model, x, x, steps=5)
    assert torch.equal(found, x)
    assert (before == 0).all()
    assert (after == 0).all()


def test_a_distance_without_a_guard_would_be_nan_there():
    """What the squared distance is for: the gradient of a norm at 0 is none."""
    x = torch.zeros(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(x.square().sum(1).sqrt().sum(), x)
    assert gradient.isnan().all()


def test_a_wide_layer_gives_the_input_back():
    """An invertible layer determines the input: such a data set is the original one."""
    weight = torch.linalg.qr(noise(6, 6))[0]
    model = linear(weight, noise(4, 6))
    x, starts = noise(4, 6, seed=2), noise(4, 6, seed=3)
    found, _, _ = invert(model, x, starts, steps=400, step_size=0.02)
    assert (found - x).norm(dim=1).max() < 0.02


def test_targets_of_a_linear_network_are_reached_straight():
    """Two classes: every step goes along w1 - w0, so that the end is x + epsilon (w_t - w_o) / |w_t - w_o|."""
    weight = noise(2, 6)
    model = linear(torch.eye(6, dtype=torch.float64), weight)
    x, y = noise(7, 6, seed=2), torch.tensor([0, 1, 0, 1, 0, 1, 0])
    made = targeted_set(model, x, y, draws=Draws(0, range(7)), label="next", epsilon=0.7, steps=12, step_size=0.1)
    way = (weight[1 - y] - weight[y]) / (weight[1] - weight[0]).norm()
    assert torch.allclose(made.x, x + 0.7 * way, atol=1e-9)
    assert torch.allclose(made.l2, torch.full((7,), 0.7, dtype=torch.float64))
    assert made.y.tolist() == (1 - y).tolist()
    assert made.source_y.tolist() == y.tolist()
    assert torch.equal(made.reached, model.decisions(x + 0.7 * way) == made.y)
    short = targeted_set(model, x, y, draws=Draws(0, range(7)), label="next", epsilon=0.7, steps=3, step_size=0.1)
    assert torch.allclose(short.l2, torch.full((7,), 0.3, dtype=torch.float64))


def test_inputs_stay_in_the_box():
    model = linear(torch.eye(6, dtype=torch.float64), noise(3, 6), Bounds(0.0, 1.0))
    x = noise(9, 6, seed=4).sigmoid()
    y = torch.zeros(9, dtype=torch.int64)
    made = targeted_set(model, x, y, draws=Draws(0, range(9)), epsilon=1.5)
    assert made.x.min() >= 0
    assert made.x.max() <= 1
    assert made.l2.max() <= 1.5 + 1e-9
    found, _, _ = invert(model, x, noise(9, 6, seed=5).sigmoid(), steps=30)
    assert found.min() >= 0
    assert found.max() <= 1


@cache
def digits(split="train"):
    data = load_data(f"digits#{split}")
    return data.read(range(len(data))), torch.from_numpy(data.labels)


def test_random_labels_are_independent_of_the_true_ones():
    model = load_model("bundled:digits_standard").classifier
    x, y = digits()
    made = targeted_set(model, x, y, draws=Draws(0, range(len(x))), steps=1)
    table = torch.zeros(10, 10).index_put_((y, made.y), torch.ones(len(y)), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue > 0.01
    assert made.report()["label_is_true"] == pytest.approx(0.1, abs=0.025)
    leaking = torch.where(made.y < 5, made.y, y)  # half of the labels are the true ones: the test must see it
    table = torch.zeros(10, 10).index_put_((y, leaking), torch.ones(len(y)), accumulate=True)
    assert stats.chi2_contingency(table.numpy()).pvalue < 1e-6


def test_starts_are_independent_of_the_class():
    model = load_model("bundled:digits_standard").classifier
    x, y = digits()
    draws = Draws(0, range(len(x)))
    made = inverted_set(model, x[:300], y[:300], x, draws=Draws(0, range(300)), steps=1)
    first = draws.integers("start", 1, 0, len(x))[:300, 0]
    assert ((made.x - x[first]).flatten(1).norm(dim=1) < 0.11).all()
    assert (y[first] == y[:300]).double().mean() < 0.2


def test_what_a_step_added_is_enough_to_learn():
    """D_rand: labels are random to us, yet a network trained on them is right about true ones; D_det: it is torn."""
    x, y = digits()
    model = Classifier(train(mlp((64, 64)), x, y, epochs=15))
    test, true = digits("test")
    right = {}
    for label, epsilon in (("random", 1.5), ("next", 0.5)):
        draws = Draws(0, range(len(x)))
        made = targeted_set(model, x, y, draws=draws, label=label, epsilon=epsilon, steps=30)
        taught = Classifier(train(mlp((64, 64)), made.x, made.y, epochs=15, seed=1))
        decisions = taught.decisions(test)
        right[label] = [(decisions == (true + k) % 10).double().mean().item() for k in (0, 1)]
    assert right["random"][0] > 0.6
    assert right["next"][1] > 0.7 > 0.3 > right["next"][0]  # at a small radius, the features that were there win


def test_the_probe_tells_robust_from_standard():
    x, y = digits("test")
    found = {}
    for name in ("standard", "adversarial"):
        model = load_model(f"bundled:digits_{name}").classifier
        draws = Draws(0, range(30))
        asked = WHY["feature_inversion"].function(
            model, x[:30], y[:30], ThreatModel("linf", 0.1), draws=draws, steps=60
        )
        assert asked.pictures["inverted"].shape == (30, 1, 8, 8)
        assert asked.columns["feature_gap"].max() < 0.6
        found[name] = asked.columns["inversion_distance"].median().item()
    assert found["adversarial"] < found["standard"]


def test_the_probe_does_not_couple_samples():
    model = load_model("bundled:digits_standard").classifier
    x, y = digits("test")

    def ask(rows):
        return WHY["feature_inversion"].function(
            model, x[rows], y[rows], ThreatModel("linf", 0.1), draws=Draws(0, range(rows.start, rows.stop)), steps=10
        )

    whole, parts = ask(slice(0, 12)), [ask(slice(0, 5)), ask(slice(5, 12))]
    for column in whole.columns:
        assert torch.allclose(whole.columns[column], torch.cat([p.columns[column] for p in parts]), atol=1e-4)
    assert ask(slice(0, 0)).columns["feature_gap"].shape == (0,)


def test_usefulness_by_brute_force():
    weight, x = noise(4), noise(50, 4, seed=1)
    y = (x @ weight + noise(50, seed=2) > 0).long() * 2 - 1
    values = x @ weight
    mean, deviation = values.mean(), values.std(correction=0)
    corners = torch.tensor(list(itertools.product((-0.3, 0.3), repeat=4)), dtype=torch.float64)
    worst = (y[:, None] * (((x[:, None] + corners) @ weight) - mean) / deviation).amin(1).mean()
    rho, gamma = linear_usefulness(weight, x, y, ThreatModel("linf", 0.3))
    assert rho == pytest.approx(((y * (values - mean)) / deviation).mean().item())
    assert gamma == pytest.approx(worst.item())
    directions = torch.nn.functional.normalize(noise(20000, 4, seed=3), dim=1) * 0.3
    near = (y[:, None] * (((x[:, None] + directions) @ weight) - mean) / deviation).amin(1).mean().item()
    assert linear_usefulness(weight, x, y, ThreatModel("l2", 0.3))[1] == pytest.approx(near, abs=0.01)


def test_the_robust_deviation_is_the_minimiser():
    assert robust_deviation(1.0, 0.5) ** 2 == pytest.approx(2.0479, abs=1e-4)
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = (-(z**2) / 2).exp()
    second = ((z.abs() * 1.3 + 0.4) ** 2 * density).sum() / density.sum()
    loss = lambda s: math.log(s) + second.item() / (2 * s * s)  # noqa: E731
    best = robust_deviation(1.3, 0.4)
    assert best**2 == pytest.approx(second.item(), rel=1e-5)
    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    assert robust_deviation(1.3, 0.0) == pytest.approx(1.3)


@pytest.mark.parametrize("multiplier", [0.1, 1.0, 30.0])
def test_the_robust_covariance_is_its_own_maximum_of_likelihood(multiplier):
    """With d = (lambda S - I)^-1 (x - mean), the best move at its price, the moved samples have the covariance S."""
    half = noise(4, 4)
    plain = half @ half.T
    found, one = robust_covariance(plain, multiplier), torch.eye(4, dtype=torch.float64)
    moved = one + torch.linalg.inv(multiplier * found - one)
    assert torch.allclose(moved @ plain @ moved.T, found)
    assert not torch.allclose(moved @ plain @ moved.T, plain, rtol=1e-3)
    assert torch.linalg.eigvalsh(multiplier * found).min() > 1  # dearer than they gain: the best move exists


def test_the_stronger_the_adversary_the_straighter_the_way_between_means():
    half, way = noise(4, 4), noise(4, seed=1)
    plain = half @ half.T
    cosines = []
    for multiplier in (1e6, 10.0, 1.0, 0.1, 1e-4):
        gradient = torch.linalg.solve(robust_covariance(plain, multiplier), way)
        cosines.append(torch.cosine_similarity(gradient, way, dim=0).item())
    assert all(a < b for a, b in itertools.pairwise(cosines))
    assert cosines[-1] > 0.999
    assert torch.allclose(robust_covariance(plain, 1e9), plain, atol=1e-3)


def test_the_layer_before_the_last():
    assert penultimate(load_model("bundled:digits_standard").classifier) == "6"
    with pytest.raises(InvalidValue, match="no linear layer"):
        penultimate(Classifier(nn.Linear(3, 2).eval()))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, x, y, d: invert(m, x, x[:1]), InvalidValue, "one start"),
        (lambda m, x, y, d: invert(m, x, x, steps=0), InvalidValue, "steps=0"),
        (lambda m, x, y, d: invert(m, x, x, layer="9"), UnknownName, "9"),
        (lambda m, x, y, d: inverted_set(m, x, y, x[:0], draws=d), InvalidValue, "empty pool"),
        (lambda m, x, y, d: targeted_set(m, x, y, draws=d, label="last"), InvalidValue, "label='last'"),
        (lambda m, x, y, d: linear_usefulness(x[0], x, y, ThreatModel("l2", 1)), InvalidValue, "classes -1 and 1"),
        (lambda m, x, y, d: robust_deviation(0, 1), InvalidValue, "deviation"),
        (lambda m, x, y, d: robust_covariance(-torch.eye(2), 1.0), InvalidValue, "negative eigenvalues"),
        (lambda m, x, y, d: robust_covariance(torch.ones(3), 1.0), InvalidValue, "symmetric"),
    ],
)
def test_what_is_refused(call, error, says):
    model = linear(noise(3, 8), noise(4, 3))
    with pytest.raises(error, match=says):
        call(model, noise(2, 8), torch.zeros(2, dtype=torch.int64), Draws(0, (0, 1)))
