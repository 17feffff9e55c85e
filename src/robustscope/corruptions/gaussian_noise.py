"""Gaussian noise."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.numbers import normal
from robustscope.corruptions.tables import Constants, constant

SIGMA = {
    "imagenet-c": (0.08, 0.12, 0.18, 0.26, 0.38),
    "tiny-imagenet-c": (0.04, 0.08, 0.12, 0.15, 0.18),
    "cifar-10-c": (0.04, 0.06, 0.08, 0.09, 0.10),
}


@register(
    "gaussian_noise",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="noise",
    stochastic=True,
)
def gaussian_noise(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Add Gaussian noise, as in low light: x' = x + c n.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; the same noise is scaled at each.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    sigma = constant(SIGMA, constants, x, severity)
    return normal(draws, "noise", x).mul_(sigma).add_(x).clamp_(0, 1)
