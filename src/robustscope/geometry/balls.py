"""Balls: distance, exact projection on ball and box together, steepest step, sampling.

All functions take ``(B, *S)`` tensors and treat samples one by one. Distances are measured here and nowhere else.
:func:`distance`, :func:`contains`, :func:`project` and :func:`sample` dispatch on the type of the threat set; what stands
here is for lp balls, and other sets register their own (``patches``, ``rigid``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.threats import Threat
from robustscope.core.types import Bounds, Norm, ThreatModel


def _columns(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over (B, *S)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


@singledispatch
def distance(norm: Norm | Threat, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Return the distance of each pair in ``norm``: float64 (B,).

    Measured in float64 whatever the dtype of the inputs; "l0" counts the values that differ. Given a threat set instead,
    the distance is in the units of its epsilon: at most epsilon exactly when the example lies in the set.

    Args:
        norm: a norm, or a threat set.
        x: (B, *S).
        x_adv: (B, *S).
        parameters: (B, P), what the attack says it did; needed by threat sets of transformations alone.
    """
    if isinstance(norm, ThreatModel):
        norm = norm.norm
    assert isinstance(norm, str)  # other threat sets have functions of their own
    delta = x_adv.double()
    if delta is x_adv:
        return length(cast(Norm, norm), x_adv - x)
    return length(cast(Norm, norm), delta.sub_(x))  # in float64, as both are rounded to it without loss


def length(norm: Norm, delta: Tensor) -> Tensor:
    """Return the length of each perturbation in ``norm``, (B,), in its own dtype: faster than :func:`distance`, rounded."""
    flat = delta.flatten(1)
    if norm == "l0":
        return (flat != 0).sum(1).to(delta.dtype)
    if flat.shape[1] == 0:
        return flat.new_zeros(len(flat))
    if norm == "linf":
        return flat.abs().amax(1)  # a tenth of the time of vector_norm
    return torch.linalg.vector_norm(flat, {"l2": 2, "l1": 1}[norm], dim=1)


def dual_length(norm: Norm, gradient: Tensor) -> Tensor:
    """Return the length of each gradient in the norm dual to ``norm``: (B,), in its own dtype.

    Args:
        norm: "linf" (dual l1), "l2" or "l1" (dual linf).
        gradient: (B, *S).
    """
    flat = gradient.flatten(1)
    if norm == "l1":
        return flat.abs().amax(1)
    if norm == "linf":
        return torch.linalg.vector_norm(flat, 1, dim=1)
    length = torch.linalg.vector_norm(flat, dim=1)
    if (length < 1e6 * torch.finfo(flat.dtype).tiny ** 0.5).any():
        # Squares of tiny gradients underflow: a masked gradient would look like one that is exactly zero.
        largest = flat.abs().amax(1, keepdim=True)
        return torch.linalg.vector_norm(flat / largest.where(largest > 0, 1), dim=1) * largest[:, 0]
    return length


def slack(threat: ThreatModel, x: Tensor) -> float:
    """Return by how much storing ``x_adv`` in the dtype of ``x`` may lengthen a perturbation.

    Each stored value is rounded by at most half a unit in the last place; two roundings happen (x + delta, and the
    radius itself), hence one unit for each value, summed as the norm sums.
    """
    unit = torch.finfo(x.dtype).eps * max(abs(threat.bounds.lower), abs(threat.bounds.upper))
    values = max(x[0].numel(), 1) if len(x) else 1
    return unit * {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values), "l0": 0.0}[threat.norm]


@singledispatch
def contains(threat: Threat, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Tell for each sample whether ``x_adv`` lies in the threat set around ``x``: bool (B,).

    The bounds hold exactly; the radius holds up to :func:`slack`. ``parameters`` as in :func:`distance`.
    """
    assert isinstance(threat, ThreatModel)  # other threat sets have functions of their own
    lower, upper = threat.bounds
    flat = x_adv.flatten(1)
    inside = ((flat >= lower) & (flat <= upper)).all(1)
    if threat.epsilon == math.inf:
        return inside
    return inside & (distance(threat.norm, x, x_adv) <= threat.radius(x).double() + slack(threat, x))


@singledispatch
def project(threat: Threat, x: Tensor, z: Tensor) -> Tensor:
    """Return the point of (ball around ``x``) ∩ (box) nearest to ``z`` in the Euclidean sense.

    Exact for the intersection, not one projection after the other, in each norm:

    - linf: two clips.
    - l2: clip(s (z - x), room) with the largest s in [0, 1] that stays in the ball (piecewise quadratic in s).
    - l1: soft threshold then clip, with the smallest threshold that stays in the ball (piecewise linear).
    - l0: clip to the box, then keep the floor(epsilon) values whose loss would cost most.

    Args:
        threat: norm, radius and bounds.
        x: (B, *S), centres, inside the bounds.
        z: (B, *S), points to project.

    Returns:
        (B, *S), in the dtype of ``z``.

    Source: the l1 case is the joint projection that Croce & Hein 2021, arXiv:2103.01208, Sec. 3, showed to matter.
    """
    assert isinstance(threat, ThreatModel)  # other threat sets have functions of their own
    return project_within(threat.norm, threat.bounds, threat.radius(x), x, z)


def whole_box(threat: Threat, x: Tensor) -> Threat:
    """Return the threat set with every infinite radius replaced by one whose ball holds the whole box.

    For attacks whose steps are fractions of the radius: "unbounded" then means that only the bounds limit them.

    Example:
        >>> whole_box(ThreatModel("l2", "inf"), torch.zeros(1, 4)).epsilon
        2.0
    """
    radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
    if not isinstance(threat, ThreatModel) or math.inf not in radii:
        return threat
    width, values = threat.bounds.upper - threat.bounds.lower, math.prod(x.shape[1:])
    full = {"linf": width, "l2": width * math.sqrt(values), "l1": width * values, "l0": float(values)}[threat.norm]
    finite = tuple(full if math.isinf(radius) else radius for radius in radii)
    return replace(threat, epsilon=finite if isinstance(threat.epsilon, tuple) else finite[0])


def project_within(norm: Norm, bounds: Bounds, radius: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Project as :func:`project` does, with the radius of each sample as a tensor (B,).

    For loops whose radii change at every step; building a threat model each time would cost more than the projection.
    """
    lower, upper = bounds
    if norm == "linf":
        return torch.clamp(z, *_corners(bounds, radius, x))
    delta, low, high = (z - x).flatten(1), (lower - x).flatten(1), (upper - x).flatten(1)
    if delta.shape[1] == 0:
        return z
    size = delta.abs()
    room = torch.where(delta > 0, high, -low)
    solve = {"l2": _shrink_l2, "l1": _shrink_l1, "l0": _shrink_l0}[norm]
    kept = solve(size, room, radius)
    return (x.flatten(1) + kept * delta.sign()).clamp_(lower, upper).view_as(z)


def corners(threat: ThreatModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest values of an linf threat set, which is itself a box: two (B, *S).

    A loop that projects on the same set again and again computes them once.
    """
    return _corners(threat.bounds, threat.radius(x), x)


def _corners(bounds: Bounds, radius: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    reach = _columns(radius, x)
    return (x - reach).clamp_(*bounds), (x + reach).clamp_(*bounds)


def _first(condition: Tensor) -> Tensor:
    """Return the first column where each row holds, (B, 1); the last one where rounding lets none hold."""
    last = condition.shape[1] - 1
    found = condition.to(torch.int8).argmax(1, keepdim=True)
    return torch.where(condition.any(1, keepdim=True), found, torch.full_like(found, last))


def _trim(kept: Tensor, order: int, radius: Tensor) -> Tensor:
    """Scale down what the rounding of long sums has left outside the radius."""
    norm = torch.linalg.vector_norm(kept, order, dim=1)
    return kept * torch.where(norm > radius, radius / norm, torch.ones_like(norm))[:, None]


def _shrink_l2(size: Tensor, room: Tensor, radius: Tensor, limit: float = 1.0) -> Tensor:
    """Return min(s * size, room) with the largest s <= limit such that its l2 norm is at most ``radius``."""
    clipped = torch.minimum(size * limit, room)
    norm = torch.linalg.vector_norm(clipped, dim=1)
    outside = norm > radius
    if not outside.any():
        return clipped
    size_out, room_out, radius_out = size[outside], room[outside], radius[outside]
    # A value saturates at s = room / size; between saturations the squared norm is quadratic in s.
    turn = torch.where(size_out > 0, room_out / size_out, torch.inf).clamp_(max=limit)
    turn, order = turn.sort(dim=1)
    square, full = size_out.gather(1, order) ** 2, room_out.gather(1, order) ** 2
    zero = square.new_zeros(len(square), 1)
    saturated = torch.cat([zero, full.cumsum(1)], 1)[:, :-1]
    free = square.flip(1).cumsum(1).flip(1)
    reached = saturated + turn**2 * free
    # Rounding may let no turn reach the radius: then the last segment holds, which starts at the first of the last turns.
    first = _first((reached >= (radius_out**2)[:, None]) | (turn == turn[:, -1:]))
    left = (radius_out**2 - saturated.gather(1, first)[:, 0]).clamp_(min=0)
    s = (left / free.gather(1, first)[:, 0].clamp_(min=torch.finfo(left.dtype).tiny)).sqrt().clamp_(max=limit)
    out = clipped.clone()
    out[outside] = _trim(torch.minimum(s[:, None] * size_out, room_out), 2, radius_out)
    return out


def _shrink_l1(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return min(max(size - t, 0), room) with the smallest t >= 0 such that its sum is at most ``radius``."""
    clipped = torch.minimum(size, room)
    outside = clipped.sum(1) > radius
    if not outside.any():
        return clipped
    size_out, room_out, radius_out = size[outside], room[outside], radius[outside]
    # The sum falls with t: slope -1 for each value from t = size - room (where it leaves its bound) to t = size.
    leave, vanish = (size_out - room_out).clamp_(min=0), size_out
    at = torch.cat([leave, vanish], 1)
    change = torch.cat([-torch.ones_like(leave), torch.ones_like(vanish)], 1)
    at, order = at.sort(dim=1)
    slope = change.gather(1, order).cumsum(1)
    width = at.diff(dim=1, append=at[:, -1:])
    start = torch.minimum(size_out, room_out).sum(1, keepdim=True)
    after = start + (slope * width).cumsum(1)
    first = _first(after <= radius_out[:, None])
    excess = (after.gather(1, first)[:, 0] - radius_out).clamp_(max=0)
    end = at.gather(1, (first + 1).clamp_(max=at.shape[1] - 1))[:, 0]
    steep = slope.gather(1, first)[:, 0]
    t = end - torch.where(steep < 0, excess / steep, torch.zeros_like(excess))
    out = clipped.clone()
    out[outside] = _trim(torch.minimum((size_out - t[:, None]).clamp_(min=0), room_out), 1, radius_out)
    return out


def _shrink_l0(size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return min(size, room) on the floor(radius) values where zeroing would cost most, zero elsewhere."""
    clipped = torch.minimum(size, room)
    gain = size**2 - (size - clipped) ** 2
    count = radius.floor().clamp(0, size.shape[1])
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where(rank < count[:, None], clipped, torch.zeros_like(clipped))


def steepest(norm: Norm, gradient: Tensor, movable: Tensor | None = None, count: int = 1) -> Tensor:
    """Return the direction of unit length that ascends fastest to first order; zero gradients give zero.

    linf: sign; l2: normalised; l1: the ``count`` largest values share the length equally (1 is the exact steepest
    step); l0: the signs of the ``count`` largest values.

    Args:
        norm: the norm whose unit ball bounds the step.
        gradient: (B, *S).
        movable: bool (B, *S), values that can still move; l1 and l0 choose among them. None means all.
        count: number of values that an l1 or l0 step moves.
    """
    if norm == "linf":
        return gradient.sign()
    flat = gradient.flatten(1)
    if norm == "l2":
        # Dividing by the largest value first keeps tiny gradients from underflowing when squared.
        flat = flat / flat.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(flat.dtype).tiny)
        size = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        return flat.div_(size.masked_fill_(size == 0, 1)).view_as(gradient)
    size = flat.abs() if movable is None else flat.abs() * movable.flatten(1)
    top = size.topk(min(count, size.shape[1]), dim=1)
    chosen = torch.zeros_like(size).scatter_(1, top.indices, (top.values > 0).to(size.dtype))
    step = chosen * flat.sign()
    if norm == "l1":
        step = step / chosen.sum(1, keepdim=True).clamp(min=1)
    return step.view_as(gradient)


def furthest(threat: ThreatModel, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the point of (ball around ``x``) ∩ (box) that maximises the scalar product with ``gradient``: (B, *S).

    linf: each value moves by epsilon as far as the box allows. l1: values move to their bound by decreasing
    |gradient| until epsilon is spent (fractional knapsack). l2: clip(s * gradient, room), with the s that spends
    epsilon. Values whose gradient is zero stay.

    Args:
        threat: linf, l2 or l1, radius and bounds.
        x: (B, *S), centres, inside the bounds.
        gradient: (B, *S).
    """
    lower, upper = threat.bounds
    if threat.norm == "linf":
        return project(threat, x, x + _columns(threat.radius(x), x) * gradient.sign())
    flat, low, high = gradient.flatten(1), (lower - x).flatten(1), (upper - x).flatten(1)
    room = torch.where(flat > 0, high, -low) * (flat != 0)
    radius = threat.radius(x)
    if threat.norm == "l1":
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        sorted_room = room.gather(1, order)
        spent = sorted_room.cumsum(1) - sorted_room
        moved = torch.minimum(sorted_room, (radius[:, None] - spent).clamp_(min=0))
        size = _trim(torch.zeros_like(room).scatter_(1, order, moved), 1, radius)
    else:
        largest = flat.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(flat.dtype).tiny)
        size = _shrink_l2(flat.abs() / largest, room, radius, limit=1e18)
    return (x.flatten(1) + size * flat.sign()).clamp_(lower, upper).view_as(x)


@singledispatch
def sample(threat: Threat, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return one random point of the threat set around each sample: (B, *S).

    Uniform in the ball (l0: floor(epsilon) random values redrawn uniformly in the box), then projected on the box.

    Source: l2 and l1 by normalised Gaussian and exponential vectors, Barthe et al. 2005, Theorem 1.
    """
    assert isinstance(threat, ThreatModel)  # other threat sets have functions of their own
    radius = _columns(threat.radius(x), x)
    lower, upper = threat.bounds
    if threat.norm == "linf":
        # Rounding is monotonic: x + u * radius with |u| <= 1 never leaves the ball, so that only the bounds are left to clip to.
        return draws.uniform(purpose, x).mul_(radius).add_(x).clamp_(lower, upper)
    if threat.norm == "l0":
        rank = draws.uniform(f"{purpose}/order", x).flatten(1).argsort(1).argsort(1).view_as(x)
        values = draws.uniform(f"{purpose}/value", x, lower, upper)
        return torch.where(rank < radius.floor(), values, x)
    if threat.norm == "l2":
        direction = draws.normal(purpose, x).flatten(1)
        extra = draws.exponential(f"{purpose}/radius", x[:, :1].flatten(1)[:, :1]) * 2
        length = (direction.square().sum(1, keepdim=True) + extra).sqrt()
    else:
        direction = draws.exponential(purpose, x).flatten(1) * draws.uniform(f"{purpose}/sign", x).sign().flatten(1)
        extra = draws.exponential(f"{purpose}/radius", x[:, :1].flatten(1)[:, :1])
        length = direction.abs().sum(1, keepdim=True) + extra
    return project(threat, x, x + (direction / length).view_as(x) * radius)


def clip_to_bounds(x: Tensor, bounds: Bounds) -> Tensor:
    """Return ``x`` clipped to the bounds."""
    return x.clamp(bounds.lower, bounds.upper)
