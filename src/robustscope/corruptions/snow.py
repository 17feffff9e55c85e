"""Snow."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.colours import grey
from robustscope.corruptions.filters import motion
from robustscope.corruptions.motion_blur import angles_of
from robustscope.corruptions.resample import crop_of_zoom, enlarge
from robustscope.corruptions.tables import Constants, constant, on_levels

SNOW = {
    "imagenet-c": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "tiny-imagenet-c": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    "cifar-10-c": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
}
"""Mean and sigma of the flakes, their size, threshold, radius and sigma of their fall, weight of the picture."""


@register(
    "snow",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="weather",
    stochastic=True,
    channels=(1, 3),
)
def snow(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Whiten the picture and add falling flakes: enlarged noise above a threshold, blurred downwards, and upside down.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        severity: 1 to 5; stronger in its parts, though not always in the picture.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.

    Departures: only that part of the noise is drawn which is enlarged; ImageMagick's blur is computed by its formula
    (see ``motion_blur``), and rounded to 8 bits as there.
    """
    mean, sigma, size, threshold, radius, spread, weight = constant(SNOW, constants, x, severity)
    falling = flakes(x, draws, mean, sigma, size, threshold)
    return snowed(x, motion(falling, int(radius), spread, angles_of(draws, x, -135.0, -45.0)), weight)


def flakes(x: Tensor, draws: Draws, mean: float, sigma: float, size: float, threshold: float) -> Tensor:
    """Return flakes that do not fall yet: noise, enlarged by ``size``, above a threshold: (B, 1, H, W), on 256 levels."""
    (_, tall, high), (_, broad, wide) = (crop_of_zoom(side, size) for side in x.shape[-2:])
    drawn = mean + sigma * draws.normal("flakes", x.new_empty(len(x), 1, tall, broad))
    drawn = enlarge(drawn, (high, wide), *x.shape[-2:])
    return on_levels(torch.where(drawn < threshold, 0, drawn).clamp(0, 1), "truncate")


def snowed(x: Tensor, falling: Tensor, weight: float) -> Tensor:
    """Return the pictures whitened, with flakes (B, 1, H, W) and the same upside down."""
    falling = on_levels(falling, "nearest")
    white = weight * x + (1 - weight) * torch.maximum(x, grey(x) * 1.5 + 0.5)
    return (white + falling + falling.rot90(2, (-2, -1))).clamp(0, 1)
