"""The patch threat set: rectangles, what fits into them, and the nearest and random points of the set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.threats import Patch
from robustscope.geometry import balls

TINY = 1e-9
"""Factors are compared up to this, so that 3 pixels times a third count as one pixel."""


def pictures(x: Tensor) -> Tensor:
    """Return inputs (B, *S) as (B, C, H, W): without channels C is 1, and a vector is a picture of height 1."""
    return x[:, None, None] if x.dim() == 2 else x.reshape(len(x), math.prod(x.shape[1:-2]), *x.shape[-2:])


def sides(threat: Patch, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return height and width of each sample's rectangle, at most the picture's: two int64 (B,)."""
    factor = threat.radius(x).double()
    high, wide = pictures(x).shape[-2:]
    height = (threat.height * factor + TINY).floor().clamp(0, high)
    width = (threat.width * factor + TINY).floor().clamp(0, wide)
    return height.long(), width.long()


def window_sums(values: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return the sum of ``values`` over the rectangle whose upper left corner is there; -inf where it does not fit.

    Args:
        values: (B, H, W).
        height, width: int64 (B,), sides of each sample's rectangle.

    Returns:
        float64 (B, H, W).
    """
    batch, high, wide = values.shape
    total = values.new_zeros(batch, high + 1, wide + 1, dtype=torch.float64)
    total[:, 1:, 1:] = values.double().cumsum(1).cumsum(2)
    top = torch.arange(high, device=values.device)
    left = torch.arange(wide, device=values.device)
    bottom, right = top + height[:, None], left + width[:, None]
    row = torch.arange(batch, device=values.device)[:, None, None]
    below, beside = bottom.clamp(max=high)[:, :, None], right.clamp(max=wide)[:, None]
    top, left = top[None, :, None], left[None, None]
    sums = total[row, below, beside] - total[row, top, beside] - total[row, below, left] + total[row, top, left]
    fits = (bottom <= high)[:, :, None] & (right <= wide)[:, None]
    return torch.where(fits, sums, -torch.inf)


def window(corner: Tensor, height: Tensor, width: Tensor, x: Tensor) -> Tensor:
    """Return the rectangle of each sample as a mask: bool (B, *S).

    Args:
        corner: int64 (B,), row * W + column of the upper left corner.
        height, width: int64 (B,).
        x: (B, *S), for its shape.
    """
    image = pictures(x)
    high, wide = image.shape[-2:]
    top, left = (corner // wide)[:, None], (corner % wide)[:, None]
    rows, columns = torch.arange(high, device=x.device), torch.arange(wide, device=x.device)
    inside = ((rows >= top) & (rows < top + height[:, None]))[:, :, None]
    inside = inside & ((columns >= left) & (columns < left + width[:, None]))[:, None]
    return inside[:, None].expand_as(image).reshape(x.shape)


def random_corner(threat: Patch, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return a uniform corner at which each sample's rectangle fits: int64 (B,), row * W + column."""
    high, wide = pictures(x).shape[-2:]
    height, width = sides(threat, x)
    unit = draws.uniform(purpose, x.new_empty(len(x), 2, dtype=torch.float64), 0.0, 1.0)
    # Cast from float32, a number just below 1 may come out as 1.
    top = (unit[:, 0] * (high - height + 1)).long().minimum(high - height)
    left = (unit[:, 1] * (wide - width + 1)).long().minimum(wide - width)
    return top * wide + left


@balls.project.register
def project(threat: Patch, x: Tensor, z: Tensor) -> Tensor:
    """Return the nearest point of the patch set: the rectangle that keeps most of ``z``, clipped; ``x`` elsewhere."""
    clipped = z.clamp(*threat.bounds)
    gain = pictures((z - x).square() - (z - clipped).square()).sum(1)
    height, width = sides(threat, x)
    corner = window_sums(gain, height, width).flatten(1).argmax(1)
    return torch.where(window(corner, height, width, x), clipped, x)


@balls.sample.register
def sample(threat: Patch, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return each sample with a rectangle at a uniform place filled with uniform values."""
    corner = random_corner(threat, x, draws, f"{purpose}/corner")
    content = draws.uniform(f"{purpose}/content", x, *threat.bounds).clamp_(*threat.bounds)
    return torch.where(window(corner, *sides(threat, x), x), content, x)


@balls.distance.register
def distance(threat: Patch, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Return the factor at which the rectangle around all values that differ just fits: float64 (B,)."""
    differs = pictures(x != x_adv).any(1)
    return torch.maximum(_extent(differs.any(2)) / threat.height, _extent(differs.any(1)) / threat.width)


def _extent(used: Tensor) -> Tensor:
    """Return how far apart the first and the last True of each row are, both counted: float64 (B,)."""
    count = used.shape[1]
    place = torch.arange(count, device=used.device)
    first = torch.where(used, place, count).amin(1)
    last = torch.where(used, place, -1).amax(1)
    return (last - first + 1).clamp(min=0).double()


@balls.contains.register
def contains(threat: Patch, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Tell for each sample whether what differs fits into its rectangle, inside the bounds: bool (B,)."""
    lower, upper = threat.bounds
    flat = x_adv.flatten(1)
    inside = ((flat >= lower) & (flat <= upper)).all(1)
    return inside & (distance(threat, x, x_adv) <= threat.radius(x).double() + TINY)
