"""Rotation."""

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
    "rotate",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
)
def rotate(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Turn the picture clockwise about its centre, from -15 to 15 degrees, bilinearly; black outside.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.

    Departures: turned about the exact centre of the picture, where the library that the authors used was half a pixel off.
    """
    frames = []
    for frame in range(31):
        angle = math.radians((frame - 15) * constant(STEP, constants, x))
        c, s = math.cos(angle), math.sin(angle)
        frames.append(mapped(x, [[c, s], [-s, c]]))
    return torch.stack(frames, 1)
