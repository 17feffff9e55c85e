"""Points in a ball: uniform, inside the ball and the bounds, and the same for every way of holding them."""

import pytest
import torch

from robustscope.core.draws import Draws
from robustscope.core.types import Bounds, ThreatModel
from robustscope.estimates.points import _draw, batch_maxima
from robustscope.geometry import balls

FAR = Bounds(-100.0, 100.0)
NORMS = ("linf", "l2", "l1")


def drawn(norm, values=5, count=4000, bounds=FAR, centre=0.0, radius=2.0):
    x = torch.full((1, values), centre, dtype=torch.float64)
    return x, _draw(ThreatModel(norm, radius, bounds), x, Draws(0, (0,), "test"), "batch/0/0", count)[0]


@pytest.mark.parametrize("norm", NORMS)
def test_points_are_uniform_in_the_ball(norm):
    """The share within a fraction r of the radius is r^d, to four standard errors; each half space holds half."""
    x, points = drawn(norm)
    length = balls.length(norm, points - x)
    assert (length <= 2.0).all()
    for fraction in (0.5, 0.7, 0.9):
        due = fraction**5
        assert float((length <= fraction * 2.0).double().mean()) == pytest.approx(
            due, abs=4 * (due * (1 - due) / 4000) ** 0.5
        )
    assert (((points > 0).double().mean(0) - 0.5).abs() < 4 * (0.25 / 4000) ** 0.5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_points_stay_in_the_bounds_and_the_ball(norm):
    bounds = Bounds(0.0, 1.0)
    x, points = drawn(norm, bounds=bounds, centre=0.9, count=500)
    assert ((points >= 0) & (points <= 1)).all()
    assert (points == 1).any(), "clipped, not rejected"
    assert (balls.length(norm, points - x) <= 2.0 + 1e-12).all()


def test_l2_points_of_many_values_lie_near_the_surface():
    """Uniform in the ball: not at a uniform radius, as the authors' code draws them."""
    x, points = drawn("l2", values=500, count=200)
    assert (balls.length("l2", points - x) > 0.98 * 2.0).double().mean() > 0.9


def test_maxima_and_shares_are_those_of_the_points():
    """Against all points at once: the first value as measurement, 0 where it is negative."""
    x = torch.zeros(3, 2, dtype=torch.float64)
    threat, draws = ThreatModel("linf", 1.0, FAR), Draws(0, (4, 9, 2), "test")
    maxima, shares = batch_maxima(
        x, threat, draws, 4, 6, lambda at, rows: torch.stack([at[:, 0].clamp(min=0), at[:, 1] + 7.0 * rows], 1)
    )
    points = torch.stack([_draw(threat, x, draws, f"batch/{b}/0", 6) for b in range(4)], 1)  # (3, 4, 6, 2)
    torch.testing.assert_close(maxima[:, 0], points[..., 0].clamp(min=0).amax(2))
    torch.testing.assert_close(maxima[:, 1], points[..., 1].amax(2) + 7.0 * torch.arange(3.0)[:, None])
    torch.testing.assert_close(shares[:, 0], (points[..., 0] <= 0).double().mean((1, 2)))
    assert not shares[1:, 1].any()


def test_large_inputs_are_drawn_in_blocks(monkeypatch):
    """Every block has numbers of its own."""
    monkeypatch.setattr("robustscope.estimates.points.BLOCK", 8)
    seen = []

    def measure(at, rows):
        seen.append(at)
        return at.sum(1, keepdim=True)

    maxima, _ = batch_maxima(torch.zeros(1, 4), ThreatModel("l2", 1.0, FAR), Draws(0, (0,), "test"), 3, 5, measure)
    points = torch.cat(seen)
    assert points.shape == (15, 4)
    assert len(points.unique(dim=0)) == 15
    torch.testing.assert_close(maxima[0, 0], points.sum(1).view(3, 5).amax(1).double())
