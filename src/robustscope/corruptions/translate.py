"""Translation."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import MU, register
from robustscope.corruptions.resample import affine
from robustscope.corruptions.tables import check_severity

SHIFTS = (1, 2, 3, 4, 5)
"""In pixels of a picture of 28."""


@register(
    "translate",
    version=1,
    source="Mu & Gilmer, 2019, arXiv:1906.02337, Sec. 3",
    bibtex=MU,
    family="geometric",
    stochastic=True,
    constants=("mnist-c",),
)
def translate(x: Tensor, severity: int, *, draws: Draws) -> Tensor:
    """Move along both axes by the same number of pixels, each in one direction or the other.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; MNIST-C has 3.
        draws: random numbers of the samples.

    Returns:
        (B, C, H, W), bilinear, 0 outside of the old picture.

    Raises:
        InvalidValue: for another severity.

    Source: Mu and Gilmer 2019, arXiv:1906.02337, Sec. 3; constants of the authors' programs.

    Departures: in pictures of another size than 28 the distance is that share of each side, in whole pixels.
    """
    shift = SHIFTS[check_severity(severity) - 1]
    sides = torch.tensor([max(1, round(shift * side / 28)) for side in (x.shape[-1], x.shape[-2])])
    signs = 2 * draws.integers("direction", 2, 0, 2) - 1
    maps = torch.eye(2, 3, dtype=torch.float64).repeat(len(x), 1, 1)
    maps[:, :, 2] = (signs * sides).double()
    return affine(x, maps, "zeros")
