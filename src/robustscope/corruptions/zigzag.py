"""A zigzag line."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.lines import line
from robustscope.corruptions.tables import check_severity

START, END = 2.0, 25.0
ALONG = (0.0, 2.0, 6.0, 10.0, 14.0, 18.0, 22.0)
ASIDE = (0.0, 2.0, -2.0, 2.0, -2.0, 2.0, -2.0)
"""Turning points of the zigzag along its axis and aside of it, in pixels of a picture of 28."""


@register(
    "zigzag",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="drawing",
    stochastic=True,
    severities=1,
    constants=("mnist-c",),
)
def zigzag(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Draw a white zigzag from the left to the right, at a random height, falling or rising a little.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1.
        draws: random numbers of the samples.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3; constants of the authors' programs.

    Departures: on pictures of another size than 28 everything is drawn in proportion.
    """
    check_severity(severity, 1)
    height = draws.integers("height", 1, 0, 27)[:, 0].double()
    rise = draws.integers("rise", 1, -5, 5)[:, 0].double()
    length = ((END - START) ** 2 + rise**2).sqrt()
    cos, sin = (END - START) / length, rise / length
    ends = length, ASIDE[-1] / (2 * (length - 20))
    points = [
        (START + cos * a - sin * b, height + sin * a + cos * b) for a, b in [*zip(ALONG, ASIDE, strict=True), ends]
    ]
    drawn = torch.stack([line(x, *pair) for pair in pairwise(points)]).sum(0)
    return (x + drawn).clamp(0, 1)
