"""Elastic deformation."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.filters import gaussian_field
from robustscope.corruptions.numbers import unit as unit_numbers
from robustscope.corruptions.resample import affine, look_up, pixels
from robustscope.corruptions.tables import Constants, benchmark, constant

ELASTIC = {
    "imagenet-c": ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    "tiny-imagenet-c": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "cifar-10-c": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
}
"""Displacement, its smoothness and the corners' shift, in sides of the picture."""


@register(
    "elastic_transform",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1; Simard et al., 2003",
    bibtex=HENDRYCKS,
    family="digital",
    stochastic=True,
    known_failures={
        "grows_with_severity": "coarse shifts come first and fine ones last, which is no order of distance"
    },
)
def elastic_transform(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Shift three corners of a square at random, then every pixel by a smooth field; both bilinearly, mirrored outside.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5; from coarse to fine, which is no order of distance.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures. They are in sides of the
            picture, with "imagenet-c" in 244/224 of the shorter one, as in the authors' programs.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1, after Simard et al. 2003,
        doi:10.1109/ICDAR.2003.1227801; constants of the authors' programs.

    Departures: positions are exact, where OpenCV rounds those of the first step to 1/32 pixel.
    """
    shift, smooth, corners = constant(ELASTIC, constants, x, severity)
    side = min(x.shape[-2:])
    unit = side * 244 / 224 if benchmark(constants, x) == "imagenet-c" else side
    moves = draws.uniform("corners", x.new_empty(len(x), 3, 2).double()) * corners * unit
    x = affine(x, _inverse_map(x, moves.cpu()), "mirror")
    if shift == 0:
        return x
    field = unit_numbers(draws, "field", x.new_empty(len(x), 2, *x.shape[-2:]))
    field = gaussian_field(field, smooth * unit).mul_(shift * unit)
    columns, rows = pixels(x)
    return look_up(x, columns + field[:, 0], rows + field[:, 1], "reflect").clamp(0, 1)


def _inverse_map(x: Tensor, moves: Tensor) -> Tensor:
    """Return the maps from new to old positions when three corners of a central square move.

    Args:
        x: (B, C, H, W).
        moves: float64 (B, 3, 2), in pixels.

    Returns:
        float64 (B, 2, 3).
    """
    height, width = x.shape[-2:]
    reach = max(1, min(height, width) // 3)
    a, b = width // 2, height // 2
    old = torch.tensor([[a + reach, b + reach], [a + reach, b - reach], [a - reach, b - reach]], dtype=torch.float64)
    new = torch.cat([old + moves, torch.ones(len(moves), 3, 1, dtype=torch.float64)], -1)
    # (column, row, 1) of the new corners times the map is (column, row) of the old ones.
    return torch.linalg.solve(new, old.expand(len(moves), -1, -1)).transpose(1, 2)
