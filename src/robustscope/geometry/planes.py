"""Planes: the shortest step to a plane that stays inside the input bounds, exact in each norm.

A linearised decision boundary is such a plane; DeepFool and FAB step to it at every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.types import Bounds, Norm
from robustscope.geometry.balls import length


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
    norm: Norm, bounds: Bounds, x: Tensor, normals: Tensor, gains: Tensor, sides: Tensor | None = None
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
    """
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    slope = torch.linalg.vector_norm(normals.flatten(2), dual, dim=2)
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


def stretch(bounds: Bounds, x: Tensor, delta: Tensor, length: Tensor) -> Tensor:
    """Return clip(x + s * delta) with the s that makes it ``length`` (B,) away from ``x`` in l2, or the most that fits.

    The squared length is concave and piecewise linear in s squared, so Newton's iteration meets it without a sort; it ends
    for a sample when the values that reach their bound stay the same.

    Args:
        bounds: valid range of every input value.
        x: (B, *S), inside the bounds.
        delta: (B, *S), directions; a zero direction gives ``x``.
        length: (B,).
    """
    flat, start = delta.flatten(1), x.flatten(1)
    if flat.shape[1] == 0 or not len(x):
        return x.clone()
    tiny, most = torch.finfo(flat.dtype).tiny, torch.finfo(flat.dtype).max ** 0.5
    square = flat.square()
    before, wanted = square.sum(1), length.square()
    if (before < tiny**0.5).any():  # squares of tiny values underflow: scaled by the largest, they do not
        flat = flat / flat.abs().amax(1, keepdim=True).clamp_(min=tiny)
        square = flat.square()
        before = square.sum(1)
    s2 = (wanted / before.clamp(min=tiny)).clamp_(max=most)
    rows, out = torch.arange(len(x), device=x.device), start
    for step in range(flat.shape[1] + 1):
        ahead = torch.addcmul(start, flat, s2.sqrt()[:, None])
        point = ahead.clamp(*bounds)
        free = torch.eq(ahead, point, out=ahead).mul_(square).sum(1)
        out = out.index_copy_(0, rows, point) if step else point
        keep = ((free < before) & (free > 0)).nonzero()[:, 0]
        if not len(keep):
            break
        rows, start, flat, square, wanted = rows[keep], start[keep], flat[keep], square[keep], wanted[keep]
        missing = wanted - point[keep].sub_(start).square_().sum(1)
        before = free[keep]
        s2 = (s2[keep] + missing.clamp_(min=0) / before).clamp_(max=most)
    return out.view_as(x)


def furthest_corner(norm: Norm, bounds: Bounds, x: Tensor) -> Tensor:
    """Return the distance in ``norm`` from each sample to the corner of the bounds that is furthest away: (B,)."""
    room = torch.maximum(bounds.upper - x, x - bounds.lower).flatten(1)
    if norm == "l0":
        return room.new_full((len(room),), float(room.shape[1]))
    if room.shape[1] == 0:
        return room.new_zeros(len(room))
    return torch.linalg.vector_norm(room, {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
