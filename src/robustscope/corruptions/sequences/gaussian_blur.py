"""Gaussian blur that grows."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.filters import gaussian
from robustscope.corruptions.sequences.cards import Constants, constant, register

SIGMA = {"imagenet-p": (0.25, 0.035, 6.0), "tiny-imagenet-p": (0.35, 0.014, 7.0), "cifar-10-p": (0.3, 0.015, 7.0)}
"""Sigma of the first frame and its step, in pixels; sigmas at which the kernel ends."""


@register(
    "gaussian_blur",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    validation=True,
)
def gaussian_blur(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur by a Gaussian that becomes wider in each frame; the last pixels continue outside.

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
    first, step, truncate = constant(SIGMA, constants, x)
    return torch.stack([gaussian(x, first + step * frame, truncate=truncate) for frame in range(31)], 1)
