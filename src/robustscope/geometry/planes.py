"""Planes: the shortest step to a plane that stays inside the input bounds, exact in each norm.

A linearised decision boundary is such a plane; DeepFool and FAB step to it at every iteration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustscope.core.types import Bounds, Norm
from robustscope.geometry.balls import length

MOST_GAIN = 4.0
"""Largest gain that :func:`reach` passes on: where all values are at their bounds no gain is enough."""


def shortest_step(norm: Norm, bounds: Bounds, x: Tensor, normal: Tensor, gain: Tensor) -> Tensor:
    """Return the shortest step d with <normal, d> >= gain such that x + d stays inside the bounds: (B, *S).

    linf: every value moves by t or to its bound; l2: by t |normal| or to its bound; in both <normal, d> is concave and
    piecewise linear in t, so that Newton's iteration from 0 meets the smallest t after finitely many steps. l1: values
    move to their bound by decreasing |normal| until the gain is reached (fractional knapsack). Where the bounds let no
    step gain so much, every value goes to the bound that gains most. Values whose ``normal`` is zero stay.

    Args:
        norm: "linf", "l2" or "l1".
        bounds: valid range of every input value.
        x: (B, *S), inside the bounds.
        normal: (B, *S), direction of gain.
        gain: (B,), what is to be gained; zero or less asks for no step.

    Source: Croce & Hein 2020, arXiv:1907.02044, Sec. 2.2 (the box-constrained projection on a hyperplane).

    Example:
        >>> x, normal = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
        >>> shortest_step("linf", Bounds(0.0, 1.0), x, normal, torch.tensor([0.4]))
        tensor([[0.3000, 0.1000]])
    """
    flat, start = normal.flatten(1), x.flatten(1)
    if flat.shape[1] == 0:
        return torch.zeros_like(x)
    side = flat.sign()
    room = _room(side, start, bounds)
    # Scaled by its largest value, so that squares of tiny gradients do not underflow.
    slope = flat.abs()
    largest = slope.amax(1).clamp_(min=torch.finfo(flat.dtype).tiny)
    slope /= largest[:, None]
    wanted = (gain / largest).clamp_(min=0)
    size = (
        _fill(slope, room, wanted)
        if norm == "l1"
        else _saturate(slope, None if norm == "linf" else slope, room, wanted)
    )
    return size.mul_(side).view_as(x)


def _room(side: Tensor, start: Tensor, bounds: Bounds) -> Tensor:
    """Return how far each value can go towards its ``side``, +1 or -1, (b, d); anything where the side is 0."""
    half = (bounds.upper - bounds.lower) / 2
    return (side * half).add_(bounds.lower + half).sub_(start).abs_()


def _saturate(slope: Tensor | None, rate: Tensor | None, room: Tensor, wanted: Tensor) -> Tensor:
    """Return min(t * rate, room) with the smallest t >= 0 such that its product with ``slope`` is ``wanted``, or room.

    Newton's iteration on a concave, piecewise linear function: from the values that are at their room at t follows the
    next t, until the same values are at their room twice; then t is exact. None stands for ones.

    Args:
        slope: (b, d), >= 0.
        rate: (b, d), >= 0.
        room: (b, d), >= 0.
        wanted: (b,), >= 0; where no t reaches it, ``room`` is returned.
    """
    turn = room if rate is None else room / rate
    power = _product(slope, rate)
    full = room if slope is None else slope * room
    reachable = wanted < full.sum(1)
    wanted = wanted * reachable
    before = power.sum(1)
    t = wanted / before.clamp(min=torch.finfo(room.dtype).tiny)
    there, part = torch.empty_like(room), torch.empty_like(room)
    for _ in range(room.shape[1]):
        torch.le(turn, t[:, None], out=there)
        spent = torch.mul(full, there, out=part).sum(1)
        speed = torch.mul(power, there.neg_().add_(1), out=part).sum(1)
        following = torch.where(speed > 0, (wanted - spent) / speed, t)
        # A row whose values at their room are the same again stays, so that no row depends on how long others take.
        moves = (speed < before) & (following > t)
        if not moves.any():
            break
        t, before = torch.where(moves, following, t), torch.where(moves, speed, before)
    moved = torch.minimum(t[:, None] if rate is None else torch.mul(t[:, None], rate, out=part), room, out=there)
    return torch.where(reachable[:, None], moved, room)


def _product(slope: Tensor | None, rate: Tensor | None) -> Tensor:
    """Return the product of two tensors, of which None stands for ones."""
    if slope is None or rate is None:
        (known,) = (one for one in (slope, rate) if one is not None)
        return known
    return slope * rate


def _fill(slope: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Return the sizes of least sum, each at most ``room``, whose product with ``slope`` is ``wanted``."""
    price, order = slope.sort(dim=1, descending=True, stable=True)
    rooms = room.gather(1, order)
    gains = price * rooms
    left = wanted[:, None] - (gains.cumsum(1) - gains)
    size = torch.minimum(rooms, left.clamp_(min=0) / price.clamp(min=torch.finfo(price.dtype).tiny))
    return torch.zeros_like(room).scatter_(1, order, size)


def to_plane(norm: Norm, bounds: Bounds, x: Tensor, normal: Tensor, value: Tensor) -> Tensor:
    """Return the shortest step onto the plane value + <normal, d> = 0, from either side, inside the bounds: (B, *S)."""
    side = -value.sign()
    facing = normal * side.reshape(-1, *([1] * (normal.dim() - 1)))
    return shortest_step(norm, bounds, x, facing, value.abs())


def nearest(
    norm: Norm,
    bounds: Bounds,
    x: Tensor,
    normals: Tensor,
    gains: Tensor,
    sides: Tensor | None = None,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return which of several planes is nearest to each sample inside the bounds, (B,), and the step to it, (B, *S).

    A plane that the bounds do not let reach is as far as the furthest step falls short of it; one whose normal is zero
    is never reached. Without bounds a plane is no further than inside them, so planes are looked at in the order of
    that distance until it exceeds the best found: the first one or two, mostly.

    Args:
        norm: "linf", "l2" or "l1".
        bounds: valid range of every input value.
        x: (B, *S), inside the bounds.
        normals: (B, C, *S), directions of gain, C >= 1.
        gains: (B, C), >= 0, what is to be gained.
        sides: (B, C), factors +1 or -1 of the normals; None stands for ones.
        slope: (B, C), what :func:`slopes` returns for them, where it is known already.
    """
    slope = slopes(norm, normals) if slope is None else slope
    finfo = torch.finfo(slope.dtype)
    # Where squares may have underflowed nothing is known of the distance.
    bound = torch.where(slope > 1e3 * finfo.tiny**0.5, gains / slope, torch.zeros_like(slope))
    order = bound.argsort(dim=1, stable=True)
    choice, shortest = order[:, 0].clone(), torch.full_like(slope[:, 0], torch.inf)
    steps = torch.zeros_like(x)
    for rank in range(gains.shape[1]):
        plane = order[:, rank]
        rows = (bound.gather(1, plane[:, None])[:, 0] < shortest).nonzero()[:, 0]
        if not len(rows):
            break
        plane = plane[rows]
        normal, gain = normals[rows, plane], gains[rows, plane]
        if sides is not None:
            normal = normal * sides[rows, plane].reshape(-1, *([1] * (x.dim() - 1)))
        step = shortest_step(norm, bounds, x[rows], normal, gain)
        reached = (normal * step).flatten(1).sum(1)
        far = length(norm, step) * (gain / reached.clamp(min=finfo.tiny)).clamp(min=1)
        far = far.masked_fill((reached <= 0) & (gain > 0), torch.inf)
        nearer = (far < shortest[rows]).nonzero()[:, 0]
        rows = rows[nearer]
        choice[rows], shortest[rows], steps[rows] = plane[nearer], far[nearer], step[nearer]
    return choice, steps


def slopes(norm: Norm, normals: Tensor) -> Tensor:
    """Return how much each plane gains for a step of length 1, the dual norm of its normal: (B, C) of (B, C, *S)."""
    flat = normals.flatten(2)
    if norm == "l2":
        return torch.linalg.vector_norm(flat, dim=2)
    # One class after the other: what is in the cache for the absolute values is there for their sum.
    sizes = (plane.abs() for plane in flat.unbind(1))
    return torch.stack([size.sum(1) if norm == "linf" else size.amax(1) for size in sizes], 1)


def stretch(bounds: Bounds, x: Tensor, delta: Tensor, length: Tensor) -> Tensor:
    """Return the points of :func:`reach`."""
    return reach(bounds, x, delta, length).point


class Reached(NamedTuple):
    """Where :func:`reach` came.

    Args:
        point: (B, *S), the points.
        way: (B, *S), from ``x`` to them.
        size: (B,), l2 length of the way.
        gain: (B,), >= 1, how much more than without bounds directions like these must be lengthened.
    """

    point: Tensor
    way: Tensor
    size: Tensor
    gain: Tensor


def reach(
    bounds: Bounds,
    x: Tensor,
    delta: Tensor,
    length: Tensor,
    gain: Tensor | None = None,
    tolerance: float = 0.0,
    shorten_only: bool = False,
) -> Reached:
    """Return clip(x + s * delta) with the s that makes it ``length`` (B,) away from ``x`` in l2, or the most that fits.

    The squared length is concave and piecewise linear in s squared, so Newton's iteration meets it without a sort; it ends
    for a sample when the length is met, or every value is at its bound.

    Args:
        bounds: valid range of every input value.
        x: (B, *S), inside the bounds.
        delta: (B, *S), directions; a zero direction gives ``x``.
        length: (B,).
        gain: (B,), the gains of an earlier call for directions like these, to begin from; from 1 if None.
        tolerance: share of the length by which a sample may miss it, from either side; rounding in any case.
        shorten_only: leave s at 1 or below. Then this is the projection of x + delta on ball and bounds together.
    """
    flat, start = delta.flatten(1), x.flatten(1)
    if flat.shape[1] == 0 or not len(x):
        return Reached(x.clone(), torch.zeros_like(x), length.new_zeros(len(x)), torch.ones_like(length))
    finfo = torch.finfo(flat.dtype)
    full = torch.linalg.vector_norm(flat, dim=1)
    most: Tensor | float = 1.0 if shorten_only else finfo.max**0.25
    if full.amin().item() < finfo.tiny**0.25:  # squares of tiny values underflow: scaled by the largest, they do not
        tiny = full < finfo.tiny**0.25
        largest = torch.where(tiny, flat.abs().amax(1).clamp_(min=finfo.tiny), torch.ones_like(full))
        flat, most = flat / largest[:, None], most * largest if shorten_only else most
        full = torch.linalg.vector_norm(flat, dim=1).clamp_(min=finfo.tiny)
    # Without bounds this is s, inside them it is the least that s can be.
    least = (length / full).clamp_(max=most)
    scale = least.clone() if gain is None else (least * gain).clamp_(max=most)
    state = _State(flat, start, length, least, scale, torch.zeros_like(full) + most)
    point, way, size = _met(bounds, state, max(tolerance, 8 * finfo.eps))
    met = size / length  # NaN for a length of 0
    # Where the length was missed a little, the next call begins from what would have met it.
    gain = (scale / (least * met)).nan_to_num_(1.0, 1.0, 1.0).clamp_(1, MOST_GAIN)
    return Reached(point.view_as(x), way.view_as(x), size, gain)


class _State(NamedTuple):
    """What :func:`_newton` starts from: directions, centres (B, d), lengths wanted, and scales (B,)."""

    flat: Tensor
    start: Tensor
    length: Tensor
    least: Tensor
    scale: Tensor
    most: Tensor


def _met(bounds: Bounds, state: _State, near: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points that meet the lengths but for a share of ``near``, the ways to them and their lengths."""
    # Operations in place touch two tensors instead of three: a third of the time where three do not fit the cache.
    point = torch.mul(state.flat, state.scale[:, None]).add_(state.start).clamp_(*bounds)
    way = point.clone().sub_(state.start)
    size = torch.linalg.vector_norm(way, dim=1)
    low, high = (bound.item() for bound in (size / state.length).aminmax())
    if not (1 - near <= low and high <= 1 + near):
        _newton(bounds, state, near, point, way, size)
    return point, way, size


def _newton(bounds: Bounds, state: _State, near: float, point: Tensor, way: Tensor, size: Tensor) -> None:
    """Correct ``state.scale``, and with it ``point``, ``way`` and ``size``, until each length is met or out of reach.

    From above one step leads below, since the squared length is concave; from below they stay below.
    """
    flat, start, length, least, scale, most = state
    tiny = torch.finfo(flat.dtype).tiny
    low, high = length * (1 - near), length * (1 + near)
    rows = (((size < low) & (scale < most)) | (size > high)).nonzero()[:, 0]
    base, direction = start.index_select(0, rows), flat.index_select(0, rows)
    for _ in range(2 * flat.shape[1]):
        if not len(rows):
            break
        ahead = torch.mul(direction, scale[rows][:, None]).add_(base)
        free = torch.linalg.vector_norm(torch.eq(ahead, ahead.clamp(*bounds)) * direction, dim=1)
        missing = (length[rows] - size[rows]) * (length[rows] + size[rows]) / free.square().clamp(min=tiny)
        scale[rows] = (scale[rows].square() + missing).clamp_(min=0).sqrt().clamp_(min=least[rows], max=most[rows])
        side = torch.mul(direction, scale[rows][:, None]).add_(base).clamp_(*bounds)
        moved = side - base
        far = torch.linalg.vector_norm(moved, dim=1)
        point.index_copy_(0, rows, side)
        way.index_copy_(0, rows, moved)
        size[rows] = far
        short = (far < low[rows]) & (free > 0) & (scale[rows] < most[rows])
        keep = (short | (far > high[rows])).nonzero()[:, 0]
        rows, base, direction = rows[keep], base.index_select(0, keep), direction.index_select(0, keep)


def furthest_corner(norm: Norm, bounds: Bounds, x: Tensor) -> Tensor:
    """Return the distance in ``norm`` from each sample to the corner of the bounds that is furthest away: (B,)."""
    room = torch.maximum(bounds.upper - x, x - bounds.lower).flatten(1)
    if norm == "l0":
        return room.new_full((len(room),), float(room.shape[1]))
    if room.shape[1] == 0:
        return room.new_zeros(len(room))
    return torch.linalg.vector_norm(room, {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
