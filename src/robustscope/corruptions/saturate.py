"""Saturation."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.tables import Constants, constant

COLOUR = {
    "imagenet-c": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "tiny-imagenet-c": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    "cifar-10-c": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
"""What the saturation is multiplied by, and what is added to it."""


@register(
    "saturate",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Appendix B",
    bibtex=HENDRYCKS,
    family="digital",
    channels=(3,),
    constants=("imagenet-c", "tiny-imagenet-c", "cifar-10-c"),
    known_failures={"grows_with_severity": "severities 1 and 2 take colour away, 3 to 5 add it"},
)
def saturate(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Change the saturation of each colour, hue and value kept: S' = a S + b.

    Severities 1 and 2 take colour away, 3 to 5 add it. Greys have the hue 0, red, so that added saturation makes them
    red, as in the programs of the benchmark.

    Args:
        x: (B, 3, H, W), in [0, 1].
        severity: 1 to 5; no order of strength.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 3, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Appendix B; constants of the authors' programs.
    """
    times, plus = constant(COLOUR, constants, x, severity)
    value = x.amax(1, keepdim=True)
    away = value - x
    chroma = away.amax(1, keepdim=True)
    wanted = (times * torch.where(value > 0, chroma / value, 0) + plus).clamp(0, 1) * value
    red = torch.cat([torch.zeros_like(value), wanted, wanted], 1)
    return (value - torch.where(chroma > 0, away * (wanted / chroma), red)).clamp(0, 1)
