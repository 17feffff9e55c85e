"""Grey values, and the value of colours."""

from __future__ import annotations

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601."""


def grey(x: Tensor) -> Tensor:
    """Return the grey values of pictures (B, C, H, W) of one or three channels: (B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]


def raised(x: Tensor, more: float) -> Tensor:
    """Return pictures (B, C, H, W) with the value of each colour raised, hue and saturation kept: V' = clip(V + more)."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(0, 1)
    # A colour of hue h and saturation s is V times a vector of h and s; black has the saturation 0.
    return torch.where(value > 0, x * (brighter / value), brighter)
