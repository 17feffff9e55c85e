"""How unequal many numbers are: Gini coefficient, Hoyer's measure, the share of the largest, and their spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gini(values: Tensor) -> Tensor:
    """Return the Gini coefficient of the absolute values of each row: (B,), in [0, 1 - 1/d]; NaN for a row of zeros.

    sum_i (2i - d - 1) a_i / (d sum a) for a_1 <= ... <= a_d: 0 where all are equally large, 1 - 1/d where one is alone.

    Args:
        values: (B, *S), d values in each row.

    Example:
        >>> gini(torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 3.0, 0.0]]))
        tensor([0.0000, 0.7500])

    Source: Hurley & Rickard 2009, arXiv:0811.4706, for the measure and why of all sparsity measures this one.
    """
    size = _scaled(values).sort(dim=1).values
    d = size.shape[1]
    weight = 2 * torch.arange(1, d + 1, dtype=size.dtype, device=size.device) - d - 1
    return (size @ weight) / (d * size.sum(1))


def hoyer(values: Tensor) -> Tensor:
    """Return (sqrt(d) - l1 / l2) / (sqrt(d) - 1) of each row: (B,), in [0, 1]; NaN for a row of zeros.

    Args:
        values: (B, *S), d >= 2 values in each row.

    Source: Hoyer 2004, JMLR 5, Sec. 3.1.
    """
    size = _scaled(values)
    root = math.sqrt(size.shape[1])
    return (root - size.sum(1) / size.norm(dim=1)) / (root - 1)


def top_share(values: Tensor, share: float) -> Tensor:
    """Return which part of the sum of squares the largest ``share`` of each row holds: (B,); NaN for a row of zeros.

    Args:
        values: (B, *S).
        share: in (0, 1]; at least one value is taken.
    """
    square = _scaled(values).square()
    count = max(1, round(share * square.shape[1]))
    return square.topk(count, dim=1).values.sum(1) / square.sum(1)


def spread_of(outputs: Tensor) -> Tensor:
    """Return the standard deviation of each row, (B,), by which what is measured in logits is set free of their scale."""
    return (outputs - outputs.mean(1, keepdim=True)).square().mean(1).sqrt()


def _scaled(values: Tensor) -> Tensor:
    """Return absolute values as (B, d), divided by the largest of their row, so that no square underflows."""
    size = values.flatten(1).abs()
    largest = size.amax(1, keepdim=True) if size.numel() else size.new_ones(len(size), 1)
    return size / largest
