"""Brightness that rises."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.colours import raised
from robustscope.corruptions.sequences.cards import Constants, constant, register

STEP = {"imagenet-p": 0.02, "tiny-imagenet-p": 0.02, "cifar-10-p": 0.015}


@register(
    "brightness",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    channels=(1, 3),
)
def brightness(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Raise the value of each colour step by step, from -0.3 to 0.3 (CIFAR-10-P: 0.225).

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    step = constant(STEP, constants, x)
    return torch.stack([raised(x, (frame - 15) * step) for frame in range(31)], 1)
