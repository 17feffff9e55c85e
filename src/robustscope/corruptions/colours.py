"""Grey values, and the value and saturation of colours."""

from __future__ import annotations

from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601."""


def grey(x: Tensor) -> Tensor:
    """Return the grey values of pictures (B, C, H, W) of one or three channels: (B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]
