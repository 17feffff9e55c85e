"""Drops that run down."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.filters import gaussian
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.spatter import wetted

DROPS = {
    "imagenet-p": (0.65, 0.27, 3.7, 0.69, (0.05, 0.1, 0.15, 0.7)),
    "tiny-imagenet-p": (0.6, 0.25, 1.75, 0.7, (0.2, 0.8)),
    "cifar-10-p": (0.6, 0.265, 1.75, 0.7, (0.2, 0.8)),
}
"""Mean, sigma and smoothness of the drops, threshold, and what each row takes from the one below (or itself) upwards."""
STRENGTH = 0.6


@register(
    "spatter",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    stochastic=True,
    channels=(1, 3),
    validation=True,
)
def spatter(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Sprinkle water on the picture, and let it run down in steps of one or two pixels.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.

    Departures: those of the corruption ``spatter``.
    """
    mean, sigma, smooth, threshold, flow = constant(DROPS, constants, x)
    drops = mean + sigma * draws.normal("drops", x.new_empty(len(x), *x.shape[-2:]))
    water, frames = functional.threshold(gaussian(drops, smooth), threshold, 0.0), []
    for _ in range(31):
        frames.append(wetted(x, water, STRENGTH))
        water = _run_down(water, flow)
    return torch.stack(frames, 1)


def _run_down(water: Tensor, flow: tuple[float, ...]) -> Tensor:
    """Return the sum of the water (B, H, W) of the rows above, weighed; nothing runs in.

    The first weight belongs to the row below if there are four, to the row itself if there are two: the middle of the kernel.
    """
    height, below = water.shape[-2], (len(flow) - 1) // 2
    wide = functional.pad(water, (0, 0, len(flow) - 1 - below, below))
    rows = (weight * wide.narrow(-2, len(flow) - 1 - k, height) for k, weight in enumerate(flow))
    return sum(rows, torch.zeros_like(water))
