"""Plasma: heights of a landscape by midpoint displacement, as fog takes them."""

from __future__ import annotations

from torch import Tensor


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Return landscapes by the diamond-square algorithm on a torus.

    From coarse to fine, the middle of each square, then the middle of each of its sides becomes the mean of its four
    neighbours plus a displacement, uniform on +-(100 / decay^level)^2. Every point takes its own number of ``noise``.

    Args:
        noise: (B, N, N), uniform on [-1, 1); N a power of two.
        decay: by which the root of the displacement is divided from level to level.

    Returns:
        (B, N, N), scaled to [0, 1] for each sample.
    """
    count, side = noise.shape[:2]
    heights, step, wibble = noise.new_zeros(count, 1, 1), side, 100.0
    while step >= 2:
        half, strength, places = step // 2, wibble**2, side // step
        right = heights.roll(-1, 2)
        sums = heights + right
        sums += sums.roll(-1, 1)
        middles = sums.mul_(0.25).add_(noise[:, half::step, half::step], alpha=strength)
        across = (middles + middles.roll(1, 1)).add_(heights).add_(right).mul_(0.25)
        across.add_(noise[:, ::step, half::step], alpha=strength)
        down = (middles + middles.roll(1, 2)).add_(heights).add_(heights.roll(-1, 1)).mul_(0.25)
        down.add_(noise[:, half::step, ::step], alpha=strength)
        # Computed on grids of their own, which are close together in memory, and interlaced once for each level.
        finer = noise.new_empty(count, places, 2, places, 2)
        finer[:, :, 0, :, 0], finer[:, :, 0, :, 1] = heights, across
        finer[:, :, 1, :, 0], finer[:, :, 1, :, 1] = down, middles
        heights, step, wibble = finer.view(count, 2 * places, 2 * places), half, wibble / decay
    lowest, highest = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return heights.sub_(lowest).div_(highest - lowest)
