"""A dotted line."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.lines import line
from robustscope.corruptions.tables import check_severity


@register(
    "dotted_line",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="drawing",
    stochastic=True,
    severities=1,
    constants=("mnist-c",),
)
def dotted_line(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Draw a dotted white line from the left to the right side, between random heights; two columns on, two off.

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
    left, right = draws.integers("heights", 2, 0, 27).double().T
    drawn = line(x, (torch.zeros_like(left), left), (torch.full_like(right, 27.0), right))
    columns = torch.arange(x.shape[-1], device=x.device) * (28 / x.shape[-1])
    return (x + drawn * ((columns / 2).floor() % 2 == 1)).clamp(0, 1)
