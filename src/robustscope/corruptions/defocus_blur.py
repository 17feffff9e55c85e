"""Defocus blur."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.filters import disc_kernel, symmetric_2d
from robustscope.corruptions.tables import Constants, constant

DISC = {
    "imagenet-c": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "tiny-imagenet-c": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "cifar-10-c": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
}
"""Radius in pixels, and sigma of what softens the edge."""


@register(
    "defocus_blur",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="blur",
)
def defocus_blur(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur by a disc, as a lens out of focus does; pictures are mirrored outside.

    At severities 4 and 5 of ImageNet-C the kernel sums to 1.013 and 1.011, so that pictures become brighter: a property
    of the benchmark that is kept.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    radius, alias = constant(DISC, constants, x, severity)
    return symmetric_2d(x, disc_kernel(radius, alias)).clamp(0, 1)
