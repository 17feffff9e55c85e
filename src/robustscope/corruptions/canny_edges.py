"""Canny edges."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.colours import grey
from robustscope.corruptions.edges import canny_interpolated
from robustscope.corruptions.tables import check_severity


@register(
    "canny_edges",
    version=2,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3; Canny, 1986",
    bibtex=MU,
    family="drawing",
    channels=(1, 3),
    severities=1,
    constants=("mnist-c",),
)
def canny_edges(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Keep nothing but the edges, in white: Canny's method with sigma 1 and thresholds 0.1 and 0.2.

    Args:
        x: (B, C, H, W), in [0, 1]; of colours the grey values count.
        severity: 1.
        draws: unused; it is deterministic.

    Returns:
        (B, C, H, W), 0 or 1.

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3, after Canny 1986, doi:10.1109/TPAMI.1986.4767851; as
        scikit-image 0.26 computes it.
    """
    check_severity(severity, 1)
    return canny_interpolated(grey(x)[:, 0])[:, None].to(x.dtype).expand_as(x).clone()
