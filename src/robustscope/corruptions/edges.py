"""Edges by Canny's method, in the two variants that the benchmarks use."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robustscope.corruptions.filters import Edge, extend, gaussian, gaussian_weights


def sobel(x: Tensor, edge: Edge) -> tuple[Tensor, Tensor]:
    """Return the derivatives of pictures (B, H, W) downwards and to the right, unscaled: kernel (1 2 1) by (-1 0 1)."""
    height, width = x.shape[-2:]
    wide = extend(extend(x, -2, 1, 1, edge), -1, 1, 1, edge)
    rows = wide[:, 2:] - wide[:, :-2]
    columns = wide[:, :, 2:] - wide[:, :, :-2]
    down = rows[:, :, :width] + 2 * rows[:, :, 1 : width + 1] + rows[:, :, 2:]
    right = columns[:, :height] + 2 * columns[:, 1 : height + 1] + columns[:, 2:]
    return down, right


def connected(strong: Tensor, weak: Tensor) -> Tensor:
    """Return the weak pixels that are connected to strong ones through weak ones, also by corners: bool (B, H, W)."""
    while True:
        wide = functional.pad(strong, (1, 1, 1, 1))
        rows = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
        grown = strong | ((rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]) & weak)
        if torch.equal(grown, strong):
            return strong
        strong = grown


def _around(size: Tensor, down: int, right: int) -> Tensor:
    """Return the values of (B, H, W) one pixel further, 0 outside."""
    padded = functional.pad(size, (1, 1, 1, 1))
    height, width = size.shape[-2:]
    return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def canny_interpolated(x: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Return the edges as scikit-image finds them: gradients compared with those interpolated along their direction.

    Args:
        x: (B, H, W), in [0, 1].
        sigma: of the Gaussian before; nothing stands outside, and its loss there is made good.
        low, high: thresholds of the gradient's length.

    Returns:
        bool (B, H, W), False on the border of one pixel.
    """
    smooth = _blurred(x, sigma) / _blurred(torch.ones_like(x), sigma)
    down, right = sobel(smooth, "reflect")
    size = (down**2 + right**2).sqrt()
    steep, same = down.abs() >= right.abs(), (down >= 0) == (right >= 0)
    share = torch.where(steep, (right / down).abs(), (down / right).abs()).nan_to_num(0.0)
    kept = size >= low
    for sign in (1, -1):
        straight = torch.where(steep, _around(size, sign, 0), _around(size, 0, sign))
        other = torch.where(steep, _around(size, sign, -sign), _around(size, -sign, sign))
        corner = torch.where(same, _around(size, sign, sign), other)
        kept &= corner * share + straight * (1 - share) <= size
    kept = functional.pad(kept[:, 1:-1, 1:-1], (1, 1, 1, 1))
    return connected(kept & (size >= high), kept)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur with zeros outside."""
    reach = len(gaussian_weights(sigma, 4.0)) - 1
    return gaussian(functional.pad(x, (reach,) * 4), sigma)[:, reach:-reach, reach:-reach]


def canny_of_levels(x: Tensor, low: float, high: float) -> Tensor:
    """Return the edges as OpenCV finds them: directions in steps of 45 degrees, gradients measured in l1.

    Args:
        x: (B, H, W), whole numbers from 0 to 255.
        low, high: thresholds of |downwards| + |right|; an edge lies above them.

    Returns:
        bool (B, H, W).
    """
    down, right = sobel(x, "nearest")
    padded = [functional.pad(part, (1, 1, 1, 1)) for part in (down.abs().add_(right.abs()), down, right)]
    size, down, right = (part.flatten() for part in padded)
    # Few pixels have a gradient that counts; only those are compared with their neighbours.
    places = _above(size, low)
    here, down, right = (part.index_select(0, places) for part in (size, down, right))
    row = padded[0].shape[-1]
    around = (-row - 1, -row, 1 - row, -1, 1, row - 1, row, row + 1)
    beside = {step: size.index_select(0, places + step) for step in around}
    flat = down.abs() < math.tan(math.pi / 8) * right.abs()
    steep = down.abs() > math.tan(3 * math.pi / 8) * right.abs()
    same = (down >= 0) == (right >= 0)
    falling = (here > beside[-row - 1]) & (here > beside[row + 1])
    rising = (here > beside[1 - row]) & (here > beside[row - 1])
    # Of two equal neighbours the later one gives way along rows and columns, both do along diagonals.
    level = (here > beside[-1]) & (here >= beside[1])
    upright = (here > beside[-row]) & (here >= beside[row])
    largest = torch.where(flat, level, torch.where(steep, upright, torch.where(same, falling, rising)))
    strong, weak = (torch.zeros_like(padded[0], dtype=torch.bool) for _ in range(2))
    weak.view(-1)[places[largest]] = True
    strong.view(-1)[places[largest & (here > high)]] = True
    return connected(strong[:, 1:-1, 1:-1], weak[:, 1:-1, 1:-1])


def _above(size: Tensor, low: float) -> Tensor:
    """Return where values (N,) lie above a threshold: int64. NumPy takes a third of the time on the CPU."""
    if size.device.type != "cpu":
        return (size > low).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(size.numpy() > low))
