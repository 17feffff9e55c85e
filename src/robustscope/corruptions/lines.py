"""Soft white lines, as MNIST-C draws them."""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 2.3
"""Vertical distance in pixels of a picture of 28 at which a line ends."""


def line(x: Tensor, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]) -> Tensor:
    """Return lines between points: 1 + log(1 - d / 2.3) at the vertical distance d, 0 where that is negative.

    Args:
        x: (B, C, H, W), the pictures to draw on; positions are in pixels of a picture of 28, whatever their size.
        first, last: float64 columns (B,) and rows (B,) of the two ends, the first to the left of the last.

    Returns:
        (B, 1, H, W), in [0, 1].
    """
    height, width = x.shape[-2:]
    columns = torch.arange(width, dtype=torch.float64) * (28 / width)
    rows = torch.arange(height, dtype=torch.float64)[:, None] * (28 / height)
    (c0, r0), (c1, r1) = (tuple(value.double()[:, None, None] for value in point) for point in (first, last))
    distance = (rows - (r0 + (r1 - r0) / (c1 - c0) * (columns - c0))).abs().clamp(max=REACH - 1e-10)
    drawn = (1 + (1 - distance / REACH).log()).clamp(0, 1)
    drawn = drawn * ((columns >= c0.floor()) & (columns < c1.ceil()))
    return drawn[:, None].to(device=x.device, dtype=x.dtype)
