"""Poisson numbers by inversion of uniform ones: the same on every device, and by tables fast for 256 levels."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

CELLS = 512
NEAR = 2e-3


@lru_cache(maxsize=16)
def _tables(scale: float) -> tuple[Tensor, Tensor]:
    """Return the distribution functions of rates level / 255 * scale, and the least count of each cell of [0, 1).

    Returns:
        float32 (256, K), P(count <= k), and int16 (256 * CELLS,): the count, or -1 - the least one where the cell holds
        several.
    """
    most = int(scale + 8 * scale**0.5 + 12)
    rates = torch.arange(256, dtype=torch.float64)[:, None] / 255 * scale
    counts = torch.arange(1, most + 1, dtype=torch.float64)
    known = torch.special.gammaincc(counts.expand(256, -1), rates.expand(-1, most)).float().contiguous()
    known[:, -1] = 1.0
    edges = (torch.arange(CELLS + 1, dtype=torch.float32) / CELLS).expand(256, -1).contiguous()
    # The last number of a cell is one step of float32's generator below its end.
    first = torch.searchsorted(known, edges[:, :-1].contiguous(), right=True)
    last = torch.searchsorted(known, edges[:, 1:].contiguous() - 2.0**-24, right=True)
    return known, torch.where(first == last, first, -1 - first).short().flatten()


def poisson(x: Tensor, scale: float, uniform: Tensor, more: Tensor | None) -> Tensor:
    """Return Poisson counts of rate ``scale`` times ``x``.

    The level of each value below it has a table; what is left of a value that is no level adds a count of its own.

    Args:
        x: in [0, 1].
        scale: counts that 1 stands for.
        uniform: on [0, 1), shaped as ``x``.
        more: on [0, 1), shaped as ``x``; None if all values are levels.
    """
    known, cells = (table.to(x.device) for table in _tables(scale))
    scaled = x * 255
    level = (scaled + NEAR).floor().clamp(0, 255)
    uniform = uniform.float()
    cell = (level.float() * CELLS + (uniform * CELLS).floor()).int().view(-1)
    found = cells.index_select(0, cell)
    counts = found.to(x.dtype)
    several = (found < 0).nonzero()[:, 0]
    counts[several] = _searched(
        known, cell[several].long() // CELLS, uniform.view(-1)[several], -1 - found[several]
    ).to(x.dtype)
    counts = counts.view(x.shape)
    if more is None:
        return counts
    rest = scaled - level
    return counts + _inverted(torch.where(rest > NEAR, rest, 0) / 255 * scale, more)


def _searched(known: Tensor, rows: Tensor, uniform: Tensor, least: Tensor) -> Tensor:
    """Return the first count, from the least possible one on, whose distribution function passes a number."""
    counts = least.long()
    left = torch.arange(len(counts), device=counts.device)
    while len(left):
        left = left[uniform[left] >= known[rows[left], counts[left]]]
        counts[left] += 1
    return counts


def has_rest(x: Tensor) -> bool:
    """Tell whether any value is not one of the 256 levels."""
    scaled = x * 255
    return bool((scaled - (scaled + NEAR).floor() > NEAR).any())


def _inverted(rate: Tensor, uniform: Tensor) -> Tensor:
    """Return Poisson counts of small rates: the number of terms of the distribution function that are passed."""
    term = (-rate.double()).exp()
    reached, counts, k = term.clone(), torch.zeros_like(rate), 0
    while k < 60 and bool((passed := uniform >= reached).any()):
        k += 1
        counts += passed
        term = term * rate / k
        reached += term
    return counts
