"""Scaling."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.resample import scaled
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.tables import on_levels

SIZES = {"imagenet-p": (0.4, 0.025), "tiny-imagenet-p": (0.4, 0.025), "cifar-10-p": (0.7, 0.02)}
"""First size, and what each frame adds to it."""


@register(
    "scale",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
)
def scale(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Enlarge the picture about its centre, from 40 to 115 % (CIFAR-10-P: 70 to 130 %), bilinearly; black outside.

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
    first, step = constant(SIZES, constants, x)
    sizes = [first + step * frame for frame in range(31)]
    return torch.stack([on_levels(scaled(x, size).clamp(0, 1), "nearest") for size in sizes], 1)
