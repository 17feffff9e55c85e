"""Speckle noise."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.numbers import normal
from robustscope.corruptions.tables import Constants, constant

SIGMA = {
    "imagenet-c": (0.15, 0.2, 0.35, 0.45, 0.6),
    "tiny-imagenet-c": (0.15, 0.2, 0.25, 0.3, 0.35),
    "cifar-10-c": (0.06, 0.1, 0.12, 0.16, 0.2),
}


@register(
    "speckle_noise",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Appendix B",
    bibtex=HENDRYCKS,
    family="noise",
    stochastic=True,
)
def speckle_noise(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Add noise that grows with the brightness: x' = x + c x n.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; the same noise is scaled at each.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Appendix B; constants of the authors' programs.
    """
    sigma = constant(SIGMA, constants, x, severity)
    return normal(draws, "noise", x).mul_(sigma).add_(1).mul_(x).clamp_(0, 1)
