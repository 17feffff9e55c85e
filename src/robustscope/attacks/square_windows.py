"""Windows of the Square attack: how large, where, and what is written into them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Plane(NamedTuple):
    """Inputs seen as pictures: all dimensions but the last two are channels, a flat input is one row."""

    channels: int
    height: int
    width: int


def plane(x: Tensor) -> Plane:
    """Return the plane that the samples of ``x`` (B, *S) are seen as.

    Example:
        >>> plane(torch.zeros(2, 3, 8, 6)), plane(torch.zeros(2, 64))
        (Plane(channels=3, height=8, width=6), Plane(channels=1, height=1, width=64))
    """
    shape = x.shape[1:]
    height, width = (1, shape[-1]) if len(shape) == 1 else (shape[-2], shape[-1])
    return Plane(math.prod(shape[:-2]), height, width)


def share(query: int, p_init: float) -> float:
    """Return the share of the values that a window covers at a query (0 is the first after the start).

    ``p_init``, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, Sec. 3.1 and Table 4.
    """
    return p_init / 2 ** sum(query > turn for turn in HALVINGS)


def sides(p: float, height: int, width: int, odd: bool = False) -> tuple[int, int]:
    """Return height and width of a window that covers the share ``p``: a square, or longer where the picture is narrow.

    Args:
        p: share of the picture to cover.
        height: of the picture.
        width: of the picture.
        odd: whether sides are odd and at least 3, as the l2 and l1 windows are, unless the picture is smaller.

    Example:
        >>> [sides(0.8 / 2**k, 28, 28)[0] for k in range(8)]
        [25, 18, 13, 9, 6, 4, 3, 2]
        >>> sides(0.1, 1, 64), sides(0.5, 8, 32), sides(0.1, 8, 8, odd=True)
        ((1, 6), (8, 16), (3, 3))
    """
    area = p * height * width

    def whole(length: float) -> int:
        side = max(round(length), 3 if odd else 1)
        return side + 1 if odd and side % 2 == 0 else side

    side = whole(math.sqrt(area))
    if side > height:
        return height, min(whole(area / height), width)
    if side > width:
        return min(whole(area / width), height), width
    return side, side


def place(unit: Tensor, side: int, length: int) -> Tensor:
    """Return where windows begin, int64 (B,), from numbers ``unit`` (B,) on [0, 1): all that fit are as likely."""
    places = length - side + 1
    return (unit * places).long().clamp_(max=places - 1)


def inside(begin: Tensor, side: int, length: int) -> Tensor:
    """Tell which of ``length`` places lie in windows that begin at ``begin`` (B,): bool (B, length)."""
    offset = torch.arange(length, device=begin.device) - begin[:, None]
    return (offset >= 0) & (offset < side)


def bump(height: int, width: int, power: int) -> Tensor:
    """Return a hill over a rectangle, (height, width), highest in the middle: sum of (k + 1)**-power, k from d to n.

    d is the larger distance from the middle along the two sides, n half of the longer side.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, Eq. 2.
    """
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    far = torch.maximum(rows[:, None], columns[None, :])
    terms = 1 / (torch.arange(max(height, width) // 2 + 1, dtype=torch.float64) + 1) ** power
    tails = terms.flip(0).cumsum(0).flip(0)
    return tails[far]


@lru_cache(maxsize=256)
def _hills(height: int, width: int, norm: str) -> Tensor:
    """Return two hills of opposite sign, one above the other, of length 1: float64 (height, width)."""
    if height < 2:
        return torch.ones(1, 1, dtype=torch.float64) if width < 2 else _hills(width, height, norm).T
    order, power = (2, 2) if norm == "l2" else (1, 4)
    upper, lower = bump(height // 2, width, power), bump(height - height // 2, width, power)
    hills = torch.cat([upper / torch.linalg.vector_norm(upper, order), -lower / torch.linalg.vector_norm(lower, order)])
    return hills / torch.linalg.vector_norm(hills, order)


def profiles(height: int, width: int, norm: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what an l2 or l1 window holds, two hills beside each other and one above the other: two (height, width).

    Each has length 1 in ``norm``; a window of one row or column has only one way to hold them.

    Args:
        height: of the window.
        width: of the window.
        norm: "l2" or "l1", whose hills are steeper.
        like: gives dtype and device.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, Sec. 3.4; the l1 hills: Croce & Hein 2021, arXiv:2103.01208.
    """
    return _hills(width, height, norm).T.to(like), _hills(height, width, norm).to(like)


def write(patterns: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Return pictures (B, 1, height, width) of zeros with ``patterns`` (B, h, w) at ``top`` and ``left`` (B,)."""
    h, w = patterns.shape[1:]
    row = (torch.arange(height, device=top.device) - top[:, None]).clamp_(0, h - 1)
    column = (torch.arange(width, device=top.device) - left[:, None]).clamp_(0, w - 1)
    sample = torch.arange(len(top), device=top.device)[:, None, None]
    return (patterns[sample, row[:, :, None], column[:, None, :]])[:, None] * window(top, left, h, w, height, width)


def window(top: Tensor, left: Tensor, h: int, w: int, height: int, width: int) -> Tensor:
    """Tell which places of a picture lie in its window of ``h`` by ``w`` values: bool (B, 1, height, width)."""
    return (inside(top, h, height)[:, :, None] & inside(left, w, width)[:, None, :])[:, None]
