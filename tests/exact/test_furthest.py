"""The linear maximiser over ball and box, against linear and convex programming."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustscope.core.types import ThreatModel
from robustscope.geometry import balls


def optimum(norm: str, x: np.ndarray, g: np.ndarray, epsilon: float) -> float:
    """Largest g . (z - x) over ball and box."""
    d = len(x)
    if norm == "linf":
        low, high = np.maximum(-epsilon, -x), np.minimum(epsilon, 1 - x)
        return float(np.where(g > 0, g * high, g * low).sum())
    if norm == "l1":
        room = np.concatenate([1 - x, x])
        solved = linprog(
            -np.concatenate([g, -g]), A_ub=np.ones((1, 2 * d)), b_ub=[epsilon], bounds=list(zip(np.zeros(2 * d), room))
        )
        return -float(solved.fun)
    scale = np.abs(g).max()  # SLSQP wants an objective near 1
    ball = [{"type": "ineq", "fun": lambda v: epsilon**2 - (v**2).sum()}]
    solved = minimize(
        lambda v: -(g @ v) / scale,
        np.zeros(d),
        constraints=ball,
        bounds=list(zip(-x, 1 - x)),
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    return -float(solved.fun) * scale


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_furthest_point_is_optimal(norm):
    generator = torch.Generator().manual_seed(0)
    for t in range(60):
        x = torch.rand(1, 6, generator=generator, dtype=torch.float64)
        x = x.round() if t % 4 == 0 else x
        g = torch.randn(1, 6, generator=generator, dtype=torch.float64) * 10.0 ** (t % 9 - 4)
        epsilon = float(torch.rand(1, generator=generator)) * 1.5 + 1e-3
        threat = ThreatModel(norm, epsilon)
        z = balls.furthest(threat, x, g)
        assert balls.contains(threat, x, z).all()
        best = optimum(norm, x.numpy()[0], g.numpy()[0], epsilon)
        got = float(((z - x) * g).sum())
        assert got == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_clipping_afterwards_is_not_optimal():
    """The usual l2 FGSM must lose somewhere, or the test above could not tell."""
    x, g = torch.tensor([[0.99, 0.5]], dtype=torch.float64), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    usual = (x + 0.3 * g / g.norm()).clamp(0, 1)
    ours = balls.furthest(ThreatModel("l2", 0.3), x, g)
    assert float(((ours - usual) * g).sum()) > 0.05


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_zero_gradients_move_nothing(norm):
    x = torch.rand(3, 4)
    assert torch.equal(balls.furthest(ThreatModel(norm, 0.3), x, torch.zeros_like(x)), x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_extreme_gradients_stay_in_the_set(norm):
    x = torch.rand(64, 30, generator=torch.Generator().manual_seed(2))
    powers = torch.randint(-38, 38, x.shape, generator=torch.Generator().manual_seed(3))
    g = torch.pow(10.0, powers.double()).float() * (-1) ** powers
    threat = ThreatModel(norm, 0.7)
    assert balls.contains(threat, x, balls.furthest(threat, x, g)).all()
