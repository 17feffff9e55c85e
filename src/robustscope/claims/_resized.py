"""Pictures of a data set at another size."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.claims.lab import Batch
from robustscope.data.arrays import from_tensors
from robustscope.data.base import Dataset


def resize(x: Tensor, side: int) -> Tensor:
    """Return pictures (B, C, side, side), by bilinear interpolation; values stay inside those of each picture."""
    if x.shape[-2:] == (side, side):
        return x
    return torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)


def resized(data: Dataset, side: int) -> Dataset:
    """Return a data set of pictures at another size, in memory."""
    return from_tensors(resize(data.read(range(len(data))), side), data.labels, f"{data.name} at {side} pixels")


def resized_batch(batch: Batch, side: int) -> Batch:
    """Return samples at another size."""
    return Batch(resize(batch.x, side), batch.y, batch.ids)
