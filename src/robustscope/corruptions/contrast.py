"""Contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.tables import Constants, constant

KEPT = {
    "imagenet-c": (0.4, 0.3, 0.2, 0.1, 0.05),
    "tiny-imagenet-c": (0.4, 0.3, 0.2, 0.1, 0.05),
    "cifar-10-c": (0.75, 0.5, 0.4, 0.3, 0.15),
}


@register(
    "contrast",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="digital",
)
def contrast(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Shrink each channel towards its mean: x' = mean + c (x - mean).

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    kept = constant(KEPT, constants, x, severity)
    # In float64, so that the order of the sum, and with it the batch, cannot be seen.
    mean = x.mean((2, 3), keepdim=True, dtype=torch.float64)
    return (x * kept + (mean * (1 - kept)).to(x.dtype)).clamp(0, 1)
