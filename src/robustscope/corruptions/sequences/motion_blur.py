"""Motion blur of a turning direction."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.filters import motion
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.tables import on_levels

LINE = {
    "imagenet-p": (10, 3.0, 31, 4.0),
    "tiny-imagenet-p": (14, 3.0, 31, 5.0),
    "cifar-10-p": (6, 1.8, 21, 9.0),
}
"""Radius and sigma in pixels, frames, degrees from frame to frame."""


@register(
    "motion_blur",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
)
def motion_blur(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur along a line that turns from -120 (Tiny ImageNet-P: -150, CIFAR-10-P: -180) to 0 degrees.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31 or 21, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.

    Departures: for Tiny ImageNet-P the authors blur the photograph and shrink it afterwards. Here the pictures given are
    blurred: to make that benchmark, give photographs and shrink the frames; on 64 pixels the blur is a stronger one.
    """
    radius, sigma, frames, step = constant(LINE, constants, x)
    angles = [(frame - frames + 1) * step for frame in range(frames)]
    turned = [on_levels(motion(x, radius, sigma, [angle] * len(x)), "nearest") for angle in angles]
    return torch.stack(turned, 1)
