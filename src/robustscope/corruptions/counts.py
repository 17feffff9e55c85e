"""Poisson numbers by inversion of uniform ones: the same on every device, and by tables fast for 256 levels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FINE = 12
CELLS = 2**FINE
NEAR = 2e-3
PIECE = 2**16
"""Values that are counted at a time, so that all that is made of them stays in a cache."""


@lru_cache(maxsize=16)
def _tables(scale: float) -> tuple[Tensor, Tensor]:
    """Return the distribution functions of rates level / 255 * scale, and the count of each cell of [0, 1).

    Returns:
        float32 (256, K), P(count <= k), and int16 (256 * CELLS + CELLS / 2,), or int8 where that holds them: the count,
        or -1 where the cell holds several; nothing of meaning in the first half row.
    """
    most = int(scale + 8 * scale**0.5 + 12)
    rates = torch.arange(256, dtype=torch.float64)[:, None] / 255 * scale
    counts = torch.arange(1, most + 1, dtype=torch.float64)
    known = torch.special.gammaincc(counts.expand(256, -1), rates.expand(-1, most)).float().contiguous()
    known[:, -1] = 1.0
    edges = (torch.arange(CELLS + 1, dtype=torch.float32) / CELLS).expand(256, -1).contiguous()
    first = torch.searchsorted(known, edges[:, :-1].contiguous(), right=True)
    # The last number of a cell is one step of 24 bits below its end.
    last = torch.searchsorted(known, edges[:, 1:].contiguous() - 2.0**-24, right=True)
    cells = torch.where(first == last, first, -1).to(torch.int8 if most < 128 else torch.int16)
    return known, torch.cat([cells.new_zeros(CELLS // 2), cells.flatten()])


def poisson(x: Tensor, scale: float, uniform: Tensor, more: Tensor | None) -> Tensor:
    """Return Poisson counts of rate ``scale`` times ``x``.

    The level of each value below it has a table; what is left of a value that is no level adds a count of its own.

    Args:
        x: in [0, 1].
        scale: counts that 1 stands for.
        uniform: on [0, 1), or any int32, which stands for 0.5 + itself / 2^32; shaped as ``x``.
        more: as ``uniform``; None if all values are levels.
    """
    counts, tables = torch.empty_like(x, memory_format=torch.contiguous_format), _tables(scale)
    known, cells = (table.to(x.device) for table in tables)
    parts = (part.reshape(-1).split(PIECE) for part in (x, _signed(uniform), counts))
    for values, signed, found in zip(*parts, strict=True):
        _of_levels(values, signed, known, cells, found)
    if more is None:
        return counts
    rest = x * 255
    rest -= (rest + NEAR).floor_()
    return counts + _inverted(torch.where(rest > NEAR, rest, 0) / 255 * scale, _unit(_signed(more)))


def _signed(uniform: Tensor) -> Tensor:
    """Return numbers of [0, 1) as int32, where they are not already."""
    if not uniform.is_floating_point():
        return uniform
    return ((uniform * 2.0**24).int() - 2**23) << 8


def _unit(signed: Tensor) -> Tensor:
    """Return int32 as float32 on [0, 1), on steps of 2^-24."""
    return ((signed >> 8) + 2**23) * 2.0**-24


def _of_levels(x: Tensor, signed: Tensor, known: Tensor, cells: Tensor, counts: Tensor) -> None:
    """Write into ``counts`` those of the level of each value of ``x``; all (N,)."""
    # One more than the level, as the first half row of the cells is empty, so that no sign need be taken off.
    level = (x * 255).add_(1 + NEAR).int()
    place = (signed >> (32 - FINE)).add_(level, alpha=CELLS)
    found = cells.index_select(0, place)
    counts.copy_(found)
    # NumPy finds the few places in a third of the time.
    several = (found < 0).nonzero()[:, 0] if found.is_cuda else torch.from_numpy(np.flatnonzero(found.numpy() < 0))
    if len(several):
        rows = known.index_select(0, level[several].long() - 1)
        passed = torch.searchsorted(rows, _unit(signed[several])[:, None], right=True)
        counts[several] = passed[:, 0].to(counts.dtype)


def has_rest(x: Tensor) -> bool:
    """Tell whether any value is not one of the 256 levels."""
    return any(bool((part * 255).add_(NEAR).frac_().amax() > 2 * NEAR) for part in x.reshape(-1).split(PIECE))


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
