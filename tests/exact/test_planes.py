"""The shortest step to a plane inside the bounds, against the sorts of data.problems."""

import pytest
import torch

from robustscope.attacks.search import along
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data.problems import boxed_distance
from robustscope.geometry import balls, planes

NORMS = ("linf", "l2", "l1")
BOUNDS = Bounds(-1.0, 2.0)


def instances(dtype=torch.float64, n=400, d=12):
    """Random planes and points; a fifth of the values on the bounds, a tenth of the normals zero, gains up to all."""
    generator = torch.Generator().manual_seed(5)
    x = (torch.rand(n, d, generator=generator, dtype=torch.float64) * 3.8 - 1.4).clamp(*BOUNDS)
    normal = torch.randn(n, d, generator=generator, dtype=torch.float64) ** 3
    normal[torch.rand(n, d, generator=generator) < 0.1] = 0
    room = torch.where(normal > 0, BOUNDS.upper - x, x - BOUNDS.lower)
    gain = torch.rand(n, generator=generator, dtype=torch.float64) * (normal.abs() * room).sum(1)
    return x.to(dtype), normal.to(dtype), gain.to(dtype)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_the_step_gains_what_is_asked_and_none_is_shorter(norm, dtype, tolerance):
    x, normal, gain = instances(dtype)
    step = planes.shortest_step(norm, BOUNDS, x, normal, gain)
    assert ((x + step >= BOUNDS.lower - tolerance) & (x + step <= BOUNDS.upper + tolerance)).all()
    torch.testing.assert_close((normal * step).sum(1), gain, rtol=tolerance, atol=tolerance)
    exact = boxed_distance(norm, x, normal, gain, BOUNDS)
    torch.testing.assert_close(balls.distance(norm, x, x + step), exact, rtol=50 * tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
def test_edges(norm):
    x, normal, gain = instances(n=6)
    assert not planes.shortest_step(norm, BOUNDS, x, normal, -gain).any(), "nothing is asked for"
    assert not planes.shortest_step(norm, BOUNDS, x, torch.zeros_like(x), gain).any(), "nothing can be gained"
    corner = torch.where(normal > 0, BOUNDS.upper, BOUNDS.lower).where(normal != 0, x)
    torch.testing.assert_close(x + planes.shortest_step(norm, BOUNDS, x, normal, 1e9 * gain + 1), corner)
    tiny = torch.finfo(x.dtype).tiny ** 0.75
    faint = planes.shortest_step(norm, BOUNDS, x, normal * tiny, gain * tiny)
    torch.testing.assert_close(faint, planes.shortest_step(norm, BOUNDS, x, normal, gain))
    assert planes.shortest_step(norm, BOUNDS, x[:0], normal[:0], gain[:0]).shape == (0, 12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_is_met_from_both_sides(norm):
    x, normal, gain = instances()
    for value in (gain / 9, -gain / 9):
        step = planes.to_plane(norm, BOUNDS, x, normal, value)
        away = torch.where(value.sign()[:, None] * normal > 0, x - BOUNDS.lower, BOUNDS.upper - x)
        can = (normal.abs() * away).sum(1) > value.abs()
        assert can.sum() > 200
        torch.testing.assert_close((value + (normal * step).sum(1))[can], torch.zeros(int(can.sum())).double())


@pytest.mark.parametrize("norm", [*NORMS, "l0"])
def test_no_point_of_the_box_is_further_than_the_furthest_corner(norm):
    x, normal, _ = instances()
    corners = torch.where(normal > 0, BOUNDS.upper, BOUNDS.lower)
    furthest = planes.furthest_corner(norm, BOUNDS, x)
    assert (balls.distance(norm, x, corners) <= furthest + 1e-12).all()
    opposite = torch.where(x > 0.5, BOUNDS.lower, BOUNDS.upper).to(x.dtype)
    torch.testing.assert_close(balls.distance(norm, x, opposite), furthest)


def test_stretching_reaches_the_length_inside_the_box():
    x, delta, _ = instances()
    most = balls.distance("l2", x, torch.where(delta > 0, BOUNDS.upper, BOUNDS.lower).where(delta != 0, x))
    for share in (0.0, 0.3, 0.9, 2.0):
        z = planes.stretch(BOUNDS, x, delta, share * most)
        assert ((z >= BOUNDS.lower) & (z <= BOUNDS.upper)).all()
        torch.testing.assert_close(balls.distance("l2", x, z), most * min(share, 1.0), rtol=1e-9, atol=1e-9)
    assert torch.equal(planes.stretch(BOUNDS, x, torch.zeros_like(x), most), x)


def test_stretching_no_further_than_clipping_is_the_projection():
    x, delta, _ = instances()
    threat = ThreatModel("l2", tuple((0.1 + 3 * torch.arange(len(x)) / len(x)).tolist()), BOUNDS)
    clipped = balls.distance("l2", x, (x + delta).clamp(*BOUNDS))
    assert 50 < (clipped > threat.radius(x)).sum() < len(x) - 50
    z = planes.stretch(BOUNDS, x, delta, clipped.minimum(threat.radius(x)))
    torch.testing.assert_close(z, balls.project(threat, x, x + delta), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1.0, 1e-30], ids=["usual", "tiny"])
def test_the_nearest_plane_is_the_one_that_all_planes_tried_would_give(norm, scale):
    """Near the bounds the order of the distances without them is often not the order inside them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(200, 6, generator=generator).mul_(1.6).sub_(0.3).clamp_(0, 1)
    normals = torch.randn(200, 7, 6, generator=generator) * scale
    normals[:40, 2] = 0
    gains = torch.rand(200, 7, generator=generator) * scale
    gains[:5] *= 100  # out of reach
    sides = torch.randn(200, 7, generator=generator).sign()
    choice, steps = planes.nearest(norm, Bounds(0.0, 1.0), x, normals, gains, sides)
    lengths = []
    for plane in range(7):
        facing = normals[:, plane] * sides[:, plane, None]
        step = planes.shortest_step(norm, Bounds(0.0, 1.0), x, facing, gains[:, plane])
        reached = (facing.double() * step.double()).sum(1)
        short = (gains[:, plane].double() / reached.clamp(min=1e-300)).clamp(min=1)
        size = torch.linalg.vector_norm(step.double(), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
        lengths.append((size * short).masked_fill(reached <= 0, torch.inf))
    every = torch.stack(lengths, 1)
    best = every.amin(1)
    rows = torch.arange(200)
    torch.testing.assert_close(every[rows, choice], best, rtol=1e-4, atol=0)
    chosen = normals[rows, choice] * sides[rows, choice][:, None]
    torch.testing.assert_close(steps, planes.shortest_step(norm, Bounds(0.0, 1.0), x, chosen, gains[rows, choice]))
    assert (choice != (gains / normals.double().norm(dim=2)).argmin(1)).any(), "the bounds decide for some"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reach_tells_the_way_and_its_length_for_directions_of_every_size(dtype):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(7, 3, 4, generator=generator, dtype=dtype)
    x[:, 0] = 0.0  # on the bound
    delta = torch.randn(7, 3, 4, generator=generator, dtype=dtype)
    delta *= torch.tensor([1e-30, 1e-15, 1e-6, 1.0, 1e6, 1e12, 0.0], dtype=dtype)[:, None, None]
    room = torch.where(delta > 0, 1 - x, torch.where(delta < 0, x, torch.zeros_like(x)))
    most = torch.linalg.vector_norm(room.flatten(1), dim=1)
    for share in (0.1, 0.7, 0.99, 2.0):
        point, way, size, _ = planes.reach(Bounds(0.0, 1.0), x, delta, share * most)
        assert torch.equal(point, planes.stretch(Bounds(0.0, 1.0), x, delta, share * most))
        assert torch.equal(way, point - x)
        assert torch.equal(size, torch.linalg.vector_norm(way.flatten(1), dim=1))
        torch.testing.assert_close(size, min(share, 1.0) * most, rtol=20 * torch.finfo(dtype).eps, atol=0)


def test_a_step_along_the_gradient_is_the_steepest_one_whatever_its_size():
    way = torch.rand(6, 2, 3)
    gradients = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    gradients *= torch.tensor([1.0, 1e-30, 1e-42, 1e30, 0.0, 1e8])[:, None, None]
    expected = way + 0.3 * balls.steepest("l2", gradients)
    torch.testing.assert_close(along(way, gradients, 0.3), expected)
    assert torch.equal(along(way, gradients, 0.3)[4], way[4])


def test_the_gain_of_the_last_call_spares_the_next_its_iteration(monkeypatch):
    """A direction like the last one is met within the tolerance at once, and what is missed is made up for next time."""
    x, delta, _ = instances()
    most = balls.distance("l2", x, torch.where(delta > 0, BOUNDS.upper, BOUNDS.lower).where(delta != 0, x))
    length = 0.6 * most
    usual = (planes.reach(BOUNDS, x, delta, length).gain < planes.MOST_GAIN) & (length > 0)
    x, delta, length = x[usual], delta[usual], length[usual]
    first = planes.reach(BOUNDS, x, delta, length)
    assert (first.gain > 1.001).sum() > 20, "some values are at their bounds"
    monkeypatch.setattr(planes, "_newton", lambda *_: pytest.fail("no iteration is needed"))
    again = planes.reach(BOUNDS, x, delta, length, first.gain, 1e-6)
    torch.testing.assert_close(again.size, length, rtol=1e-6, atol=0)
    monkeypatch.setattr(planes, "_newton", lambda *_: None)
    wrong, misses = torch.ones_like(length), []
    for _ in range(4):
        reached = planes.reach(BOUNDS, x, delta, length, wrong, 1.0)
        wrong = reached.gain
        misses.append(float((reached.size / length - 1).abs().max()))
    assert misses[-1] < misses[0] / 4, misses


def test_a_gain_that_leads_too_far_is_taken_back():
    x, delta, _ = instances()
    most = balls.distance("l2", x, torch.where(delta > 0, BOUNDS.upper, BOUNDS.lower).where(delta != 0, x))
    for gain in (1.0, 1.5, 4.0):
        reached = planes.reach(BOUNDS, x, delta, 0.5 * most, torch.full_like(most, gain))
        torch.testing.assert_close(reached.size, 0.5 * most, rtol=1e-9, atol=1e-9)
    clipped = balls.distance("l2", x, (x + delta).clamp(*BOUNDS))
    short = planes.reach(BOUNDS, x, delta, 2 * clipped, torch.full_like(most, 4.0), shorten_only=True)
    torch.testing.assert_close(short.point, (x + delta).clamp(*BOUNDS))
