"""Inverted stripes."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.tables import check_severity


@register(
    "stripe",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="drawing",
    severities=1,
    constants=("mnist-c",),
)
def stripe(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Invert the first and the last quarter of the columns.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1.
        draws: unused; it is deterministic.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3; columns 0 to 6 and 21 to 27 of 28.
    """
    check_severity(severity, 1)
    quarter = x.shape[-1] // 4
    inverted = x.clone()
    for columns in (slice(0, quarter), slice(x.shape[-1] - quarter, None)):
        inverted[..., columns] = 1 - x[..., columns]
    return inverted
