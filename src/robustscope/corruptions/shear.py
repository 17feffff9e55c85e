"""Shear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.resample import one_of_two
from robustscope.corruptions.tables import check_severity

ANGLES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""In radians."""


@register(
    "shear",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="geometric",
    stochastic=True,
    constants=("mnist-c",),
)
def shear(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Slant about the centre, to one side or the other.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; MNIST-C has 2.
        draws: random numbers of the samples.

    Returns:
        (B, C, H, W), bilinear, 0 outside of the old picture.

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3; constants of the authors' programs.

    Departures: none from the published pictures. The library that they were made with has changed since: its shear of
    angle a was (1, -sin a; 0, cos a), which also stretches, and is (1, -tan a; 0, 1) now. Here it is the old one.
    """
    angle = ANGLES[check_severity(severity) - 1]
    c, s = math.cos(angle), math.sin(angle)
    slants = torch.tensor([[[1, s], [0, c]], [[1, -s], [0, c]]], dtype=torch.float64)
    return one_of_two(x, slants, draws)
