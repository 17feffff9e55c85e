"""Planes: the shortest step to a plane that stays inside the input bounds, exact in each norm.

A linearised decision boundary is such a plane; DeepFool and FAB step to it at every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.types import Bounds, Norm


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
    room = torch.where(flat > 0, bounds.upper - start, start - bounds.lower) * (flat != 0)
    # Scaled by its largest value, so that squares of tiny gradients do not underflow.
    largest = flat.abs().amax(1).clamp_(min=torch.finfo(flat.dtype).tiny)
    slope = flat.abs() / largest[:, None]
    wanted, most = gain / largest, (slope * room).sum(1)
    reachable = wanted < most
    wanted = wanted.clamp(min=0).minimum(most)
    if norm == "l1":
        size = _fill(slope, room, wanted)
    else:
        size = _saturate(slope, torch.ones_like(slope) if norm == "linf" else slope, room, wanted)
    size = torch.where(reachable[:, None], size, room)
    return (size * flat.sign()).view_as(x)


def _saturate(slope: Tensor, rate: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Return min(t * rate, room) with the smallest t >= 0 such that its product with ``slope`` is ``wanted``."""
    t = torch.zeros_like(wanted)
    moved = torch.zeros_like(room)
    tolerance = 4 * torch.finfo(t.dtype).eps
    power = slope * rate
    for _ in range(slope.shape[1] + 1):
        missing = wanted - (slope * moved).sum(1)
        speed = (power * (moved < room)).sum(1)
        step = torch.where((missing > 0) & (speed > 0), missing / speed, torch.zeros_like(missing))
        # A row whose step is down to rounding stays as it is, so that no row depends on how long the others take.
        step = step * (step > tolerance * t)
        if not step.any():
            break
        t = t + step
        moved = torch.minimum(t[:, None] * rate, room)
    return moved


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


def stretch(bounds: Bounds, x: Tensor, delta: Tensor, length: Tensor) -> Tensor:
    """Return clip(x + s * delta) with the s that makes it ``length`` (B,) away from ``x`` in l2, or the most that fits.

    The squared length is concave and piecewise linear in s squared, so Newton's iteration meets it without a sort.

    Args:
        bounds: valid range of every input value.
        x: (B, *S), inside the bounds.
        delta: (B, *S), directions; a zero direction gives ``x``.
        length: (B,).
    """
    flat, start = delta.flatten(1), x.flatten(1)
    if flat.shape[1] == 0:
        return x.clone()
    room = torch.where(flat > 0, bounds.upper - start, start - bounds.lower) * (flat != 0)
    largest = flat.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(flat.dtype).tiny)
    square = room.square()
    wanted = length.square().minimum(square.sum(1))
    size = _saturate(torch.ones_like(room), (flat / largest).square(), square, wanted).sqrt_()
    return (start + size * flat.sign()).clamp_(*bounds).view_as(x)


def furthest_corner(norm: Norm, bounds: Bounds, x: Tensor) -> Tensor:
    """Return the distance in ``norm`` from each sample to the corner of the bounds that is furthest away: (B,)."""
    room = torch.maximum(bounds.upper - x, x - bounds.lower).flatten(1)
    if norm == "l0":
        return room.new_full((len(room),), float(room.shape[1]))
    if room.shape[1] == 0:
        return room.new_zeros(len(room))
    return torch.linalg.vector_norm(room, {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
