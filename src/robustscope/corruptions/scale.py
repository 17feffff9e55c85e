"""Scaling."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.resample import scaled
from robustscope.corruptions.tables import check_severity

SIZES = (0.9, 0.8, 0.7, 0.6, 0.5)


@register(
    "scale",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="geometric",
    constants=("mnist-c",),
)
def scale(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Shrink towards the centre.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; MNIST-C has 3.
        draws: unused; it is deterministic.

    Returns:
        (B, C, H, W), bilinear, 0 outside of the old picture.

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3; constants of the authors' programs.
    """
    return scaled(x, SIZES[check_severity(severity) - 1])
