"""Motion blur."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.filters import motion
from robustscope.corruptions.tables import Constants, constant, on_levels

LINE = {
    "imagenet-c": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "tiny-imagenet-c": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "cifar-10-c": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
}
"""Radius and sigma in pixels."""


def angles_of(draws: Draws, x: Tensor, low: float, high: float) -> list[float]:
    """Return an angle in degrees for each sample, uniform on [low, high)."""
    return draws.uniform("angle", x.new_empty(len(x), 1).float(), low, high)[:, 0].tolist()


@register(
    "motion_blur",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="blur",
    levels=True,
    stochastic=True,
)
def motion_blur(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur along a line of a random direction within 45 degrees of the horizontal, as a moving camera does.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; the direction is the same at each.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), on 256 levels.

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.

    Departures: the benchmark calls ImageMagick; here its formula is computed, and rounded to 8 bits as there. A line that
    is longer than the picture goes on in its last pixels, as in ImageMagick.
    """
    radius, sigma = constant(LINE, constants, x, severity)
    return on_levels(motion(x, radius, sigma, angles_of(draws, x, -45.0, 45.0)), "nearest")
