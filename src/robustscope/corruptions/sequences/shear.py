"""Shear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.sequences.compose import mapped

STEP = {"imagenet-p": 1.0, "tiny-imagenet-p": 1.0, "cifar-10-p": 1.0}
"""Degrees from frame to frame."""


@register(
    "shear",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
    validation=True,
)
def shear(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Slant the picture about its centre, from -15 to 15 degrees, bilinearly; black outside.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.

    Departures: slanted about the exact centre of the picture, where the library that the authors used was half a pixel off.
        The shear of that library (torchvision 0.2), (1, -sin a; 0, cos a), also shrinks the height; later ones keep it.
    """
    frames = []
    for frame in range(31):
        angle = math.radians((frame - 15) * constant(STEP, constants, x))
        frames.append(mapped(x, [[1.0, math.tan(angle)], [0.0, 1 / math.cos(angle)]]))  # the inverse of the shear
    return torch.stack(frames, 1)
