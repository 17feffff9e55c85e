"""Zoom blur that grows."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.resample import scaled
from robustscope.corruptions.sequences.cards import Constants, constant, register

STEP = {"imagenet-p": 0.004, "tiny-imagenet-p": 0.004, "cifar-10-p": 0.004}


@register(
    "zoom_blur",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
    known_failures={
        "shows_what_lies_beyond": "it enlarges, so that nothing moves in; cropped after the change as the authors did"
    },
)
def zoom_blur(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Show the mean of the picture and of all its enlargements so far, by 0.4 % more in each frame.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    step, total = constant(STEP, constants, x), x
    frames = [x]
    for frame in range(1, 31):
        total = total + scaled(x, 1 + step * frame)
        frames.append(total / (frame + 1))
    return torch.stack(frames, 1)
