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
    heights = noise.new_zeros(noise.shape)
    step, wibble = noise.shape[-1], 100.0
    while step >= 2:
        half, strength = step // 2, wibble**2
        corners = heights[:, ::step, ::step]
        sums = corners + corners.roll(-1, 1)
        sums += sums.roll(-1, 2)
        middles = sums / 4 + strength * noise[:, half::step, half::step]
        heights[:, half::step, half::step] = middles
        across = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        heights[:, ::step, half::step] = across / 4 + strength * noise[:, ::step, half::step]
        down = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        heights[:, half::step, ::step] = down / 4 + strength * noise[:, half::step, ::step]
        step, wibble = half, wibble / decay
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)
