"""Shot noise."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.counts import has_rest, poisson
from robustscope.corruptions.numbers import thirty_two
from robustscope.corruptions.tables import Constants, constant

COUNTS = {
    "imagenet-c": (60, 25, 12, 5, 3),
    "tiny-imagenet-c": (250, 100, 50, 30, 15),
    "cifar-10-c": (500, 250, 100, 75, 50),
}


@register(
    "shot_noise",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="noise",
    stochastic=True,
)
def shot_noise(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Count photons: x' = Poisson(c x) / c.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; fewer photons make more noise.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.

    Departures: counts are inverted from uniform numbers of 24 bits, so that they are the same on every device and in every batch.
    """
    count = constant(COUNTS, constants, x, severity)
    more = thirty_two(draws, "counts/between levels", x) if has_rest(x) else None
    return poisson(x, float(count), thirty_two(draws, "counts", x), more).div_(count).clamp_(0, 1)
