"""Fawzi's bounds and noise ratios: golden numbers, exact distances to quadrics, bounds that hold."""

import math

import pytest
import torch
from torch import nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.geometry.quadrics import distance_to_quadric
from robustscope.limits.fawzi import fawzi_general, fawzi_linear, fawzi_quadratic, line_images
from robustscope.limits.noise import cap_probability, compare_noise, isoperimetric_distance, noise_radius, noise_ratio
from robustscope.models.classifier import Classifier

# x1 x3 + x2 x4 - x1 x2 - x3 x4 on images of two rows: columns count for, rows against.
MATRIX = torch.tensor([[0, -1, 1, 0], [-1, 0, 0, 1], [1, 0, 0, -1], [0, 1, -1, 0]], dtype=torch.float64) / 2


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The running example.


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.5])
def test_the_direction_of_a_line_is_robust_whatever_the_bias(bias):
    x, y = line_images(bias)
    found = fawzi_quadratic(x, y, MATRIX)
    torch.testing.assert_close(found.distance, torch.full((4,), 0.5**0.5).double())
    assert found.risk == 0
    assert torch.linalg.eigvalsh(MATRIX).tolist() == pytest.approx([-1, 0, 0, 1])
    assert found.robustness <= found.own <= found.bound


@pytest.mark.parametrize("side", [2, 3, 5])
def test_the_sum_of_the_values_is_as_robust_as_the_bias_allows(side):
    x, y = line_images(0.1, side=side)
    found = fawzi_linear(x, y, torch.ones(side**2) / side, -1.0)
    assert found.robustness == pytest.approx(0.1 * side)
    assert found.bound == pytest.approx(0.1 * side), "the bound is tight"
    assert found.distinguishability == pytest.approx(0.1 * side)
    assert found.risk == 0


# Linear, quadratic, general.


def two_classes(n=400, d=20, seed=0):
    """Uniform in a cube around +-e1 / 2; for each sample its mirror image, so that the other means are zero."""
    u = torch.rand(n // 4, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    u = torch.cat([u, -u])
    middle = torch.zeros(d).double()
    middle[0] = 0.5
    x = torch.cat([u + middle, u - middle])
    return x, (torch.arange(len(x)) < len(u)).long()


def test_separable_classes_reach_the_linear_bound():
    x, y = two_classes()
    found = fawzi_linear(x, y, torch.eye(20)[0])
    assert found.risk == 0
    assert found.robustness == pytest.approx(found.bound) == pytest.approx(0.5)
    shaken = x + torch.cat([torch.zeros(len(x), 1).double(), 0.05 * random(1, len(x), 19)], 1)
    loose = fawzi_linear(shaken, y, torch.eye(20)[0])
    assert 0 < loose.bound - loose.robustness < 0.01


def test_a_rotated_plane_keeps_both_bounds():
    x, y = two_classes()
    weight = torch.zeros(20)
    weight[:2] = torch.tensor([math.cos(0.9), math.sin(0.9)])
    found = fawzi_linear(x, y, weight)
    assert 0.05 < found.risk < 0.3
    assert found.robustness < found.own < found.bound
    assert found.bound == pytest.approx(found.distinguishability + 2 * found.radius * found.risk)


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_no_classifier_exceeds_the_bounds(share, seed):
    n = 300
    y = (torch.arange(n) < share * n).long()
    x = random(seed, n, 6) + 0.7 * (2 * y[:, None] - 1)
    a = random(seed + 10, 6, 6)
    quadratic = fawzi_quadratic(x, y, a + a.T)
    assert quadratic.robustness <= quadratic.own <= quadratic.bound
    for bias in (0.0, 0.4):
        linear = fawzi_linear(x, y, random(seed + 20, 6), bias)
        assert linear.robustness <= linear.own <= linear.bound + 1e-12


def test_the_general_bound_is_that_of_the_linear_and_quadratic_ones():
    x, y = two_classes()
    weight = random(0, 20)
    linear = fawzi_linear(x, y, weight)
    general = fawzi_general(x @ weight, y, tau=1 / float(weight.norm()), distance=linear.distance)
    assert general.bound == pytest.approx(linear.own)
    assert general.robustness == pytest.approx(linear.robustness)
    a = random(1, 20, 20)
    quadratic = fawzi_quadratic(x, y, a + a.T)
    edge = torch.linalg.eigvalsh(a + a.T)
    general = fawzi_general(
        (x @ (a + a.T) * x).sum(1),
        y,
        tau=float(min(-edge[0], edge[-1])) ** -0.5,
        gamma=0.5,
        distance=quadratic.distance,
    )
    assert general.bound == pytest.approx(quadratic.own)
    with pytest.raises(InvalidValue, match="exceed"):
        fawzi_general(x @ weight, y, tau=0.5 / float(weight.norm()), distance=linear.distance)


def test_what_is_not_allowed_is_refused():
    x, y = two_classes()
    for call in (
        lambda: fawzi_linear(x, y, torch.zeros(20)),
        lambda: fawzi_linear(x, y, torch.ones(20), radius=0.1),
        lambda: fawzi_linear(x, y + 1, torch.ones(20)),
        lambda: fawzi_quadratic(x, y, torch.eye(20)),
        lambda: fawzi_quadratic(x, y, torch.ones(20, 20).triu()),
        lambda: fawzi_general(x[:, 0], y, tau=1.0, gamma=2.0),
        lambda: fawzi_general(x[:, 0], y, tau=1.0, largest=0.01),
    ):
        with pytest.raises(InvalidValue):
            call()


# Distances to quadrics.


def nearest_on_rays(matrix, linear, constant, point, rays):
    """The nearest zero of f along many directions from a point of the plane."""
    level = point @ matrix @ point + linear @ point + constant
    bend, slope = ((rays @ matrix) * rays).sum(1), rays @ (2 * matrix @ point + linear)
    root = (slope**2 - 4 * bend * level).sqrt()
    reach = torch.stack([(-slope + root) / (2 * bend), (-slope - root) / (2 * bend)])
    return float(torch.where(reach >= 0, reach, torch.inf).nan_to_num(torch.inf).min())


@pytest.mark.parametrize("seed", range(6))
def test_distances_to_quadrics_against_all_directions(seed):
    a, linear, constant = random(seed, 2, 2), random(seed + 50, 2), float(random(seed + 90, 1))
    matrix = a @ a.T if seed % 3 == 2 else a + a.T
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    rays = torch.stack([angle.cos(), angle.sin()], 1)
    x = 2 * random(seed + 70, 8, 2)
    distance, step = distance_to_quadric(matrix, linear, constant, x)
    for k, point in enumerate(x):
        expected = nearest_on_rays(matrix, linear, constant, point, rays)
        assert float(distance[k]) == pytest.approx(expected, rel=1e-6)
    reached = torch.isfinite(distance)
    z = (x + step)[reached]
    assert float(((z @ matrix * z).sum(1) + z @ linear + constant).abs().max()) < 1e-12


def test_distances_to_quadrics_at_the_edges():
    flat = torch.zeros(2, 2).double()
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    plane, _ = distance_to_quadric(flat, torch.tensor([3.0, 4.0]), 0.0, x)
    assert plane.tolist() == pytest.approx([5.0, 0.0])
    nowhere, step = distance_to_quadric(torch.eye(2), torch.zeros(2), 1.0, x)
    assert torch.isinf(nowhere).all()
    assert not step.any()
    centre, step = distance_to_quadric(-torch.eye(2), torch.zeros(2), 4.0, x)
    assert centre.tolist() == pytest.approx([3.0, 2.0])
    assert float(step[1].norm()) == pytest.approx(2.0), "from the centre, any direction"
    # A trace of the outermost eigenvector in the gradient must not upset the hard case.
    saddle = torch.diag(torch.tensor([1.0, -1.0])).double()
    for trace in (0.0, 1e-15, 1e-9, 1e-4):
        distance, step = distance_to_quadric(saddle, torch.zeros(2), 0.0, torch.tensor([[1.0, trace]]).double())
        assert float(distance) == pytest.approx((1 - trace) / 2**0.5, abs=1e-9)


# Noise.

RATIOS = {  # at a risk of 0.01: exact, lower, upper
    2: (1.0005, 1.0, 1.237),
    10: (1.4597, 1.0, 2.288),
    100: (4.325, 3.072, 6.904),
    784: (12.045, 8.60, 19.24),
    3072: (23.830, 17.03, 38.07),
}


@pytest.mark.parametrize("values", RATIOS)
def test_the_table_of_noise_ratios(values):
    found = noise_ratio(values=values)
    exact, lower, upper = RATIOS[values]
    assert found.exact == pytest.approx(exact, abs=5.1e-4 if exact > 2 else 5.1e-5)
    assert found.lower == pytest.approx(lower, abs=5.1e-3)
    assert found.upper == pytest.approx(upper, abs=5.1e-3)
    assert found.lower <= found.exact <= found.upper
    assert cap_probability(1 / found.exact, values) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize(("values", "exact"), [(4, 1.0703), (10_000, 42.988)])
def test_more_noise_ratios(values, exact):
    assert noise_ratio(values=values).exact == pytest.approx(exact, abs=5.1e-4 if values > 4 else 5.1e-5)


def test_noise_ratios_grow_like_the_root():
    assert noise_ratio(values=10**8).exact / 1e4 == pytest.approx(1 / 2.326348, abs=1e-5)
    assert noise_ratio(values=10, risk=0.2).upper == math.inf


def test_a_cap_of_the_sphere_by_counting():
    rays = random(0, 200_000, 5)
    share = float((rays[:, 0] / rays.norm(dim=1) >= 0.6).double().mean())
    assert share == pytest.approx(cap_probability(0.6, 5), abs=4 * (0.1 / 200_000) ** 0.5)


def linear(d):
    layer = nn.Linear(d, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(d), torch.arange(1.0, d + 1)]))
    return Classifier(layer.eval()), torch.arange(1.0, d + 1).double()


def test_measured_noise_agrees_with_the_plane():
    model, weight = linear(10)
    x = random(2, 12, 10)
    distance = (x @ weight).abs() / weight.norm()
    found = noise_radius(model, x, draws=Draws(0, tuple(range(12))), risk=0.05, directions=4000)
    ratio = noise_ratio(values=10, risk=0.05)
    # A share of 0.05 from 4,000 directions is known to 7 %, the length to a third of that.
    torch.testing.assert_close(found.radius, distance * ratio.exact, rtol=0.08, atol=0)
    assert int(found.forward.sum()) == model.ledger.forward
    compared = compare_noise(distance, found.radius, 10, 0.05)
    assert compared.ratio == pytest.approx(ratio.exact, rel=0.03)
    assert ratio.lower <= compared.ratio <= ratio.upper


def test_measured_noise_does_not_depend_on_the_batch():
    model, _ = linear(4)
    x, draws = random(3, 6, 4), Draws(1, (5, 9, 2, 7, 1, 0))
    whole = noise_radius(model, x, draws=draws, risk=0.1, directions=50)
    some = torch.tensor([4, 1])
    part = noise_radius(model, x[some], draws=draws.select(some), risk=0.1, directions=50)
    assert torch.equal(part.radius, whole.radius[some])
    near = noise_radius(model, x, draws=draws, risk=0.1, directions=50, reach=1e-6)
    assert near.beyond.all()
    assert (near.forward == 51).all()


def test_gaussian_isoperimetry():
    for rate, distance in ((0.1, 0.12816), (0.01, 0.23263), (0.001, 0.30902)):
        assert isoperimetric_distance(rate, 0.1) == pytest.approx(distance, abs=5e-6)


def test_noise_that_is_not_allowed_is_refused():
    model, _ = linear(4)
    for call in (
        lambda: noise_ratio(values=1),
        lambda: noise_ratio(values=4, risk=0.5),
        lambda: noise_radius(model, torch.rand(1, 4).double(), draws=Draws(0, (0,)), directions=99),
        lambda: compare_noise(torch.zeros(3), torch.ones(3), 4),
        lambda: compare_noise(torch.tensor([1.0, torch.inf]), torch.ones(2), 4),
        lambda: isoperimetric_distance(0.0, 1.0),
    ):
        with pytest.raises(InvalidValue):
            call()
