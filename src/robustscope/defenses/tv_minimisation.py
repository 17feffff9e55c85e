"""Total-variation minimisation from a random part of the pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.defenses.apply import check_count, check_pictures, check_share
from robustscope.defenses.bit_depth import GUO
from robustscope.defenses.cards import register


@register(
    "tv_minimisation",
    version=1,
    source="Guo et al., 2018, arXiv:1711.00117, Sec. 4; split Bregman: Goldstein & Osher, 2009, doi:10.1137/080725891",
    bibtex=GUO,
    stochastic=True,
    backward="identity",
    draws=10,
    quick={"iterations": 10},
)
def tv_minimisation(
    x: Tensor,
    *,
    draws: Draws,
    bounds: Bounds,
    drop_rate: float = 0.5,
    weight: float = 0.03,
    iterations: int = 30,
    sweeps: int = 2,
) -> Tensor:
    """Forget a random part of the pixels, and take the picture of least variation that agrees with the others.

    z minimises 1/2 sum_i m_i (z_i - x_i)^2 + weight * sum_i |gradient of z at i|, for each channel; m_i is 1 with
    probability 1 - drop_rate, for all channels of a pixel together. Solved by split Bregman: with the gradient split
    off as d, the picture by red-black Gauss-Seidel sweeps, d by shrinkage, then the Bregman variable.

    Args:
        x: (B, C, H, W), inside the bounds.
        draws: decide which pixels are kept.
        bounds: valid range of every input value; ``weight`` is in its units.
        drop_rate: probability that a pixel is forgotten, in [0, 1).
        weight: of the variation against the squared distance, > 0.
        iterations: of split Bregman, >= 1; the same number for every picture, so that none waits for another.
        sweeps: Gauss-Seidel sweeps for each iteration, >= 1.

    Returns:
        (B, C, H, W), inside the bounds; the start is the mean of the kept pixels where a pixel is forgotten.

    Raises:
        InvalidValue: for hyper-parameters out of range, or inputs that are no pictures.

    Source: Guo et al. 2018, arXiv:1711.00117, Sec. 4.

    Departures: the distance is squared and halved, as in the split Bregman literature; the variation is the isotropic
        one of each pixel; the authors' code forgets the channels of a pixel independently of each other.
    """
    check_share("drop_rate", drop_rate, one=False)
    check_count(iterations=iterations, sweeps=sweeps)
    if not 0 < weight < float("inf"):
        raise InvalidValue(f"weight={weight} was given", "a finite number > 0 is allowed", "The paper uses 0.03.")
    check_pictures(x, "tv_minimisation")
    kept = (draws.uniform("mask", x[:, :1], 0.0, 1.0) >= drop_rate).to(x.dtype)
    return minimise(x, kept, weight, iterations, sweeps).clamp(*bounds)


def minimise(x: Tensor, kept: Tensor, weight: float, iterations: int, sweeps: int) -> Tensor:
    """Return the picture of least variation near the kept pixels; see :func:`tv_minimisation`.

    Args:
        x: (B, C, H, W).
        kept: (B, 1, H, W), 1 or 0.
        weight: of the variation.
        iterations: of split Bregman.
        sweeps: Gauss-Seidel sweeps for each.
    """
    # The coupling decides the speed alone; on digits, four weights are the fastest for 10 to 100 iterations.
    coupling = 4 * weight
    height, width = x.shape[2:]
    count = kept.flatten(1).sum(1).clamp(min=1).view(-1, 1, 1, 1)
    z = torch.where(kept > 0, x, (x * kept).sum((2, 3), keepdim=True) / count)
    neighbours = _divergence(*_gradient(torch.ones_like(kept)), count=True)
    scale = kept + coupling * neighbours
    # A single pixel that is forgotten has no neighbour to take its value from.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    red = (torch.arange(height)[:, None] + torch.arange(width)[None, :]).remainder(2).bool().to(x.device)
    across, down = (torch.zeros_like(part) for part in _gradient(z))
    bregman = across, down
    for _ in range(iterations):
        pull = kept * x + coupling * _divergence(across - bregman[0], down - bregman[1])
        for _ in range(sweeps):
            for colour in (red, ~red):
                z = torch.where(colour, (pull + coupling * _around(z)) / scale, z)
        steep = tuple(part + old for part, old in zip(_gradient(z), bregman, strict=True))
        length = (_padded(steep[0], 3).square() + _padded(steep[1], 2).square()).sqrt()
        factor = (1 - weight / coupling / length.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=0)
        across, down = steep[0] * factor[..., :, : width - 1], steep[1] * factor[..., : height - 1, :]
        bregman = steep[0] - across, steep[1] - down
    return z


def _gradient(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward differences along the width (..., H, W - 1) and along the height (..., H - 1, W)."""
    return z.diff(dim=3), z.diff(dim=2)


def _padded(part: Tensor, axis: int) -> Tensor:
    """Return differences with a zero where the last pixel has no neighbour."""
    zero = part.new_zeros([1 if i == axis else n for i, n in enumerate(part.shape)])
    return torch.cat([part, zero], axis)


def _divergence(across: Tensor, down: Tensor, count: bool = False) -> Tensor:
    """Return the transpose of the gradient: (..., H, W); with ``count``, how many neighbours each pixel has."""
    if count:
        across, down = torch.ones_like(across), torch.ones_like(down)
    sign = 1 if count else -1
    out = across.new_zeros(*across.shape[:2], across.shape[2], down.shape[3])
    out[..., 1:] += across
    out[..., :-1] += sign * across
    out[..., 1:, :] += down
    out[..., :-1, :] += sign * down
    return out


def _around(z: Tensor) -> Tensor:
    """Return the sum of the up to four neighbours of each pixel."""
    out = torch.zeros_like(z)
    out[..., 1:] += z[..., :-1]
    out[..., :-1] += z[..., 1:]
    out[..., 1:, :] += z[..., :-1, :]
    out[..., :-1, :] += z[..., 1:, :]
    return out
