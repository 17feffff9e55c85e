"""Zoom blur."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.resample import zoom
from robustscope.corruptions.tables import Constants, constant

END = {
    "imagenet-c": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "tiny-imagenet-c": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "cifar-10-c": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
}
"""End and step of the zooms, which begin with 1."""


def zooms(end: float, step: float) -> list[float]:
    """Return the zooms that are averaged; rounding adds the end itself where the programs of the benchmark did."""
    return np.arange(1, end, step).tolist()


@register(
    "zoom_blur",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="blur",
)
def zoom_blur(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Average the picture with its centre enlarged step by step, as a camera that moves towards the object does.

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

    Departures: sides of different length are treated each by itself; the programs of the benchmark know squares only.
    """
    factors = zooms(*constant(END, constants, x, severity))
    total = x.clone()
    for factor in factors:
        total += zoom(x, factor)
    return total.div_(len(factors) + 1).clamp_(0, 1)
