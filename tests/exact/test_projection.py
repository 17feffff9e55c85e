"""Projections against a generic convex solver, and the properties that any projection has."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from robustscope.core.types import ThreatModel
from robustscope.geometry import balls


def reference(norm: str, x: np.ndarray, z: np.ndarray, epsilon: float) -> np.ndarray:
    """Nearest point of ball and box, by sequential quadratic programming with split variables for l1."""
    d = len(x)
    options = {"ftol": 1e-16, "maxiter": 1000}
    if norm == "l2":
        ball = [{"type": "ineq", "fun": lambda v: epsilon**2 - ((v - x) ** 2).sum()}]
        return minimize(
            lambda v: ((v - z) ** 2).sum(), x, constraints=ball, bounds=[(0, 1)] * d, method="SLSQP", options=options
        ).x

    def move(v):
        return x + v[:d] - v[d:]

    limits = [
        {"type": "ineq", "fun": lambda v: epsilon - v.sum()},
        {"type": "ineq", "fun": move},
        {"type": "ineq", "fun": lambda v: 1 - move(v)},
    ]
    solved = minimize(
        lambda v: ((move(v) - z) ** 2).sum(),
        np.zeros(2 * d),
        constraints=limits,
        bounds=[(0, None)] * (2 * d),
        method="SLSQP",
        options=options,
    )
    return move(solved.x)


def cases(count: int, d: int = 5):
    generator = torch.Generator().manual_seed(0)
    for t in range(count):
        x = torch.rand(1, d, generator=generator, dtype=torch.float64)
        x = x.round() if t % 5 == 0 else x  # inputs on the bounds
        z = x + torch.randn(1, d, generator=generator, dtype=torch.float64) * (0.1, 1.0, 3.0)[t % 3]
        yield x, z, float(torch.rand(1, generator=generator)) + 1e-3


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_projection_equals_a_convex_solver(norm):
    for x, z, epsilon in cases(60):
        got = balls.project(ThreatModel(norm, epsilon), x, z)
        best = reference(norm, x.numpy()[0], z.numpy()[0], epsilon)
        # SLSQP meets its constraints to about 1e-8 only, so its objective may undercut the optimum by that much.
        ours, theirs = float(((got - z) ** 2).sum()), float(((best - z.numpy()) ** 2).sum())
        assert balls.contains(ThreatModel(norm, epsilon), x, got).all()
        assert ours <= theirs * (1 + 1e-7) + 1e-9
        assert np.abs(got.numpy()[0] - best).max() < 1e-4


def test_clip_after_scale_is_feasible_but_not_the_projection():
    """The popular shortcut for l2 is what the exact solver must beat somewhere, or the test above has no teeth."""
    gap = 0.0
    for x, z, epsilon in cases(60):
        delta = z - x
        shortcut = (x + delta * min(1.0, epsilon / float(delta.norm()))).clamp(0, 1)
        exact = balls.project(ThreatModel("l2", epsilon), x, z)
        gap = max(gap, float(((shortcut - z) ** 2).sum() - ((exact - z) ** 2).sum()))
    assert gap > 1e-2


def test_l0_projection_equals_enumeration():
    from itertools import combinations

    for x, z, epsilon in cases(40):
        k = int(epsilon * 5)
        got = balls.project(ThreatModel("l0", k), x, z)
        best = min(
            float(((torch.where(torch.tensor([i in keep for i in range(5)]), z.clamp(0, 1), x) - z) ** 2).sum())
            for keep in combinations(range(5), k)
        )
        assert float(((got - z) ** 2).sum()) == pytest.approx(best, abs=1e-12)
        assert int((got != x).sum()) <= k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_projection_is_idempotent_feasible_and_non_expansive(norm, dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2000, 3, 5, generator=generator, dtype=torch.float64).to(dtype)
    x[::7] = x[::7].round()
    threat = ThreatModel(norm, 3.0 if norm == "l0" else 0.4)
    z = x + torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    other = x + torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    once = balls.project(threat, x, z)
    assert once.dtype == dtype
    assert balls.contains(threat, x, once).all()
    tolerance = 20 * torch.finfo(dtype).eps
    assert (balls.project(threat, x, once) - once).abs().max() <= tolerance
    if norm != "l0":  # the l0 ball is not convex
        before = (z - other).flatten(1).norm(dim=1)
        after = (once - balls.project(threat, x, other)).flatten(1).norm(dim=1)
        assert (after <= before * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_radius_zero_and_infinity(norm):
    x, z = torch.rand(4, 6), torch.rand(4, 6) * 3 - 1
    assert torch.equal(balls.project(ThreatModel(norm, 0.0), x, z), x)
    assert torch.equal(balls.project(ThreatModel(norm, float("inf")), x, z), z.clamp(0, 1))


def test_each_sample_has_its_own_radius():
    x, z = torch.full((3, 4), 0.5), torch.ones(3, 4)
    moved = balls.project(ThreatModel("linf", (0.0, 0.1, 0.2)), x, z) - x
    assert torch.allclose(moved[:, 0], torch.tensor([0.0, 0.1, 0.2]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_step_attains_the_dual_norm(norm):
    gradient = torch.randn(50, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = balls.steepest(norm, gradient)
    dual = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    assert torch.allclose(balls.distance(norm, torch.zeros_like(step), step), torch.ones(50, dtype=torch.float64))
    gain = (step * gradient).flatten(1).sum(1)
    assert torch.allclose(gain, torch.linalg.vector_norm(gradient.flatten(1), dual, dim=1))


def test_steepest_step_of_tiny_and_zero_gradients():
    gradient = torch.tensor([[3e-38, 4e-38], [0.0, 0.0]])
    step = balls.steepest("l2", gradient)
    assert torch.allclose(step[0], torch.tensor([0.6, 0.8]), atol=1e-3)
    assert torch.equal(step[1], torch.zeros(2))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_samples_are_uniform_in_the_ball(norm):
    """The volume inside a fraction t of the radius is t^d: compare the empirical distribution of the radius."""
    from scipy.stats import kstest

    from robustscope.core.draws import Draws

    d, n = 3, 4000
    x = torch.full((n, d), 0.5, dtype=torch.float64)
    threat = ThreatModel(norm, 0.3)
    points = balls.sample(threat, x, Draws(0, tuple(range(n)), "test"), "uniform")
    fraction = (balls.distance(norm, x, points) / 0.3).numpy()
    assert kstest(fraction**d, "uniform").pvalue > 1e-3
    assert kstest(fraction ** (d + 1), "uniform").pvalue < 1e-6  # the check notices a wrong dimension
