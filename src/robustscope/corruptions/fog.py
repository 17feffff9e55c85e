"""Fog."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.plasma import plasma
from robustscope.corruptions.tables import Constants, benchmark, constant

FOG = {
    "imagenet-c": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    "tiny-imagenet-c": ((0.4, 3), (0.7, 3), (1.0, 2.5), (1.5, 2), (2.0, 1.75)),
    "cifar-10-c": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1.0, 2), (1.5, 1.75)),
}
"""Amount, and decay of the plasma."""

LEAST = {"mnist-c": 256}
"""Least side of the plasma, of which a picture shows the corner."""


@register(
    "fog",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="weather",
    stochastic=True,
    known_failures={
        "grows_with_severity/mnist-c": "of a rougher plasma the part of 28 of 256 pixels that is seen may lie closer"
    },
)
def fog(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Add plasma by the diamond-square algorithm and scale back: x' = (x + c plasma) max(x) / (max(x) + c).

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures. The side of the plasma
            is the next power of two, with "mnist-c" 256 as in that benchmark.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    amount, decay = constant(FOG, constants, x, severity)
    height, width = x.shape[-2:]
    side = max(LEAST.get(benchmark(constants, x), 2), 1 << (max(height, width) - 1).bit_length())
    clouds = plasma(draws.uniform("plasma", x.new_empty(len(x), side, side)), decay)[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return torch.add(x, clouds, alpha=amount).mul_(brightest / (brightest + amount)).clamp_(0, 1)
