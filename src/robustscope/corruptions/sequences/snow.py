"""Snow that falls in a turning direction."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.filters import motion
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.snow import flakes, snowed

SNOW = {"imagenet-p": (0.3, 3, 14, 4.0), "tiny-imagenet-p": (0.28, 2, 10, 2.5), "cifar-10-p": (0.3, 2, 10, 2.0)}
"""Sigma of the noise, size of the flakes, radius and sigma of their fall."""


@register(
    "snow",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    stochastic=True,
    channels=(1, 3),
)
def snow(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Let the same flakes fall in a direction that turns from -150 to -30 degrees.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    spread, size, radius, sigma = constant(SNOW, constants, x)
    still = flakes(x, draws, 0.05, spread, size, 0.5)
    angles = [frame * 4.0 - 150.0 for frame in range(31)]
    return torch.stack([snowed(x, motion(still, radius, sigma, [angle] * len(x)), 0.85) for angle in angles], 1)
