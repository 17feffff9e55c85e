"""The distance of points to a quadric, the surface on which a quadratic function is zero: exact, in l2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.errors import InvalidValue

_SMALLEST, _HALVINGS = -700.0, 200


def distance_to_quadric(matrix: Tensor, linear: Tensor, constant: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each point is from the surface f = 0 of f(x) = x'Ax + b'x + c, and the shortest step to it.

    The shortest step r solves (I + t A) r = -t (2Ax + b) / 2 for a multiplier t with I + t A positive semidefinite;
    f(x + r(t)) falls with t, so t is bisected, on the logarithm of the smallest eigenvalue of I + t A. Where the
    gradient has no part in the outermost eigenspace, the multiplier may lie at the end of its interval (the hard case
    of trust regions): then a step in that eigenspace, in either direction, makes up for what is missing.

    Args:
        matrix: (d, d), symmetric.
        linear: (d,).
        constant: c.
        x: (n, d).

    Returns:
        float64 (n,) distances, ``inf`` where f has one sign everywhere; float64 (n, d) steps, zero there.

    Raises:
        InvalidValue: for a matrix that is not symmetric, or shapes that do not fit.

    Source: the problem of one quadratic constraint; Moré, 1993, doi:10.1080/10556789308805542, its hard case.
    """
    a, b, points = matrix.double(), linear.double(), x.double()
    d = len(b)
    if a.shape != (d, d) or points.dim() != 2 or points.shape[1] != d or not torch.allclose(a, a.T):
        raise InvalidValue(
            f"shapes {tuple(a.shape)}, {tuple(b.shape)} and {tuple(points.shape)} were given",
            "a symmetric (d, d) matrix, (d,) and (n, d) are allowed",
            "Flatten the inputs; replace A by (A + A') / 2, which is the same function.",
        )
    value = (points @ a * points).sum(1) + points @ b + constant
    curvature, axes = torch.linalg.eigh(a)
    slope = (2 * points @ a + b) @ axes
    # What is left of f at the eigenvectors' rounding is no slope.
    noise = 1e-12 * (slope.norm(dim=1, keepdim=True) + 1e-300)
    slope = torch.where(slope.abs() <= noise, 0.0, slope)
    # A point on the negative side is one on the positive side of -f.
    side = torch.where(value < 0, -1.0, 1.0)
    steps = torch.zeros_like(points)
    for sign in (1.0, -1.0):
        rows = (side == sign) & (value != 0)
        if bool(rows.any()):
            steps[rows] = _down(sign * curvature, sign * slope[rows], sign * value[rows]) @ axes.T
    distance = steps.norm(dim=1)
    return torch.where(torch.isfinite(distance), distance, torch.inf), torch.nan_to_num(steps, nan=0.0)


def _down(curvature: Tensor, slope: Tensor, value: Tensor) -> Tensor:
    """Return the shortest steps that bring value > 0 down to 0, along the eigenvectors: (n, d); NaN where none does."""
    lowest = float(curvature.min())
    bends = lowest < -1e-12 * float(curvature.abs().max())
    scale = -lowest if bends else 1.0

    def place(s: Tensor) -> tuple[Tensor, Tensor]:
        """Return step and value for a parameter log s: s = 1 + t * lowest where f bends down, else t = 1 / s - 1."""
        kept = s.exp()
        t = (1 - kept) / scale if bends else (1 - kept) / kept
        # Written so that the lowest eigenvalue leaves exactly s, however small.
        room = 1 + t[:, None] * curvature
        if bends:
            share = curvature / lowest
            room = torch.where(curvature < 0, (1 - share) + kept[:, None] * share, room)
        step = -t[:, None] * slope / (2 * room)
        step = torch.where(slope == 0, torch.zeros_like(step), step)
        return step, value + (slope * step + curvature * step.square()).sum(1)

    high, low = torch.zeros_like(value), torch.full_like(value, _SMALLEST if bends else -80.0)
    step, left = place(low)
    # A trace of rounding above zero is zero: the surface is touched, not missed.
    hard = left > 1e-13 * value
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = place(middle)[1] > 0
        high, low = torch.where(above, middle, high), torch.where(above, low, middle)
    found = place(low)[0]
    if bends:
        extra = torch.zeros_like(step)
        extra[:, int(curvature.argmin())] = (left.clamp(min=0) / scale).sqrt()
        return torch.where(hard[:, None], step + extra, found)
    return torch.where(hard[:, None], math.nan, found)
