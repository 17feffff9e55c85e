"""Random numbers of 16 and of 32 bits, cut out of words of 64: several for the price of one."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from robustscope.core.draws import Draws

PIECE = 2**15
"""Values that are looked up at a time, so that their places stay in a cache beside the table."""


def sixteen(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return uniform numbers from -32,768 to 32,767 for each value: int16, shaped and placed as ``like`` (B, *S)."""
    return _cut(draws, purpose, like, torch.int16).to(like.device)


def unit(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return uniform numbers on (-1, 1), in the middle of 65,536 cells: shaped, typed and placed as ``like`` (B, *S)."""
    return sixteen(draws, purpose, like).to(like.dtype).add_(0.5).div_(32768)


def thirty_two(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return uniform numbers from -2^31 to 2^31 - 1 for each value: int32, shaped and placed as ``like`` (B, *S)."""
    return _cut(draws, purpose, like, torch.int32).to(like.device)


def normal(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return standard normal numbers out of 65,536, each as likely: shaped, typed and placed as ``like`` (B, *S).

    Each number is the mean of the law in its cell, so that the outermost are +-4.47. Pictures have 256 levels; tables
    take a third of the time of logarithms and sines.
    """
    cells = _cut(draws, purpose, like, torch.uint16).to(like.device).reshape(-1)
    table, out = _normal_cells().to(like), torch.empty_like(like, memory_format=torch.contiguous_format)
    for few, found in zip(cells.split(PIECE), out.view(-1).split(PIECE), strict=True):
        torch.index_select(table, 0, few.int(), out=found)
    return out


@lru_cache(maxsize=1)
def _normal_cells() -> Tensor:
    """Return the mean of the normal law in each of 65,536 cells of one probability, from the least: float32 (65536,)."""
    ends = torch.special.ndtri(torch.arange(32769, dtype=torch.float64) / 65536)
    density = torch.exp(-(ends**2) / 2) / (2 * torch.pi) ** 0.5
    half = (density[:-1] - density[1:]) * 65536
    return torch.cat([half, -half.flip(0)]).float()


def _cut(draws: Draws, purpose: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return words cut into numbers of ``dtype``, shaped as ``like``, on the CPU."""
    count, each = prod(like.shape[1:]), 8 // dtype.itemsize
    words = draws.words(purpose, -(-count // each))
    return words.view(dtype)[:, :count].reshape(like.shape)
