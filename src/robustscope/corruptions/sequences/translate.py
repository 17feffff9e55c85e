"""Translation to the right."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.resample import affine, moved
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.tables import on_levels

MOVES = {"imagenet-p": (-20, 41), "tiny-imagenet-p": (-15, 31), "cifar-10-p": (-7, 16)}
"""First position in pixels, frames."""


@register(
    "translate",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
)
def translate(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Move the picture to the right, one pixel in each frame; what comes in from outside is black.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 41, 31 or 16, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    first, frames = constant(MOVES, constants, x)
    places = [affine(x, moved(x, first + frame), "zeros").clamp(0, 1) for frame in range(frames)]
    # Whole pixels: what bilinear weights lose in the last digit is put right.
    return torch.stack([on_levels(place, "nearest") for place in places], 1)
