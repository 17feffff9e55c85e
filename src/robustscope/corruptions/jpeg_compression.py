"""JPEG compression."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.jpeg import through
from robustscope.corruptions.tables import Constants, constant
from robustscope.data.pictures import through_jpeg

QUALITY = {
    "imagenet-c": (25, 18, 15, 10, 7),
    "tiny-imagenet-c": (65, 58, 50, 40, 25),
    "cifar-10-c": (80, 65, 58, 50, 40),
}

LARGE = 96 * 96
"""Pixels above which Pillow is faster on a CPU; up to there its calls take longer than the arithmetic."""


@register(
    "jpeg_compression",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="digital",
    levels=True,
    channels=(1, 3),
)
def jpeg_compression(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Compress every picture as JPEG (as Pillow does, colour at half the resolution) and open it again.

    Small pictures, and those on another device than the CPU, are packed into no file, which loses nothing: what is lost,
    is computed on tensors with libjpeg's rounding. Large ones go through Pillow, which is faster there; the result is the
    same to the last bit.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB; rounded to 8 bits.
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), on 256 levels.

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    quality, levels = constant(QUALITY, constants, x, severity), (x * 255).add_(0.5)
    if x.device.type != "cpu" or x.shape[-2] * x.shape[-1] <= LARGE:
        return through(levels.floor_(), quality).div_(255)
    return torch.from_numpy(through_jpeg(levels.to(torch.uint8).numpy(), quality)).to(x.dtype).div_(255)
