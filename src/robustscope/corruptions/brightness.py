"""Brightness."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.colours import raised
from robustscope.corruptions.tables import Constants, constant

MORE = {
    "imagenet-c": (0.1, 0.2, 0.3, 0.4, 0.5),
    "tiny-imagenet-c": (0.1, 0.2, 0.3, 0.4, 0.5),
    "cifar-10-c": (0.05, 0.1, 0.15, 0.2, 0.3),
}


@register(
    "brightness",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="weather",
    channels=(1, 3),
)
def brightness(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Raise the value of each colour, hue and saturation kept: V' = min(V + c, 1).

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    return raised(x, constant(MORE, constants, x, severity))
