"""What is left when the shape goes: accuracy on pictures whose tiles are shuffled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.transforms import check_images, shuffle_tiles, tile_orders
from robustscope.models.classifier import Classifier
from robustscope.probes.why._sweeps import check_count, check_sides, correct, kept
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.saturation import ZHANG


@register(
    "patch_shuffle",
    version=1,
    source="Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2",
    bibtex=ZHANG,
    columns={"shuffled_kept": "share of grids and orders at which a correctly classified sample stays so"},
    robust={"shuffled_kept": "lower"},
    gaps={"shuffled_kept": "the sample is misclassified as it is"},
    invariant={"shuffled_kept": ("scale", "shift")},
    access="decisions",
    inputs="images",
    quick={"grids": (2,), "repeats": 2},
    brief={"repeats": 1},
)
def patch_shuffle(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    grids: Sequence[int] = (2, 4),
    repeats: int = 4,
) -> Findings:
    """Classify pictures cut into k x k tiles in random order, which keep local texture and lose the shape.

    Only samples that are classified correctly as they are can keep it.

    Args:
        model: any classifier of pictures.
        x: (B, C, H, W).
        y: int64 (B,), true classes.
        threat: unused.
        draws: of the orders; the first of more repeats are those of fewer.
        grids: sides k of the grid, each divides H and W; 1 changes nothing.
        repeats: random orders for each grid, >= 1, averaged.

    Returns:
        The column ``shuffled_kept``, and the curve ``shuffled`` (B, L): the share of orders that is classified correctly
        for each grid.

    Raises:
        InvalidValue: for tiles that do not fit, no grid, or no repeats.

    Source: Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2 and Table 2 (k = 2, 4, 8).
    """
    check_images(x)
    sides, repeats = check_sides("grids", grids), check_count("repeats", repeats)
    curve = []
    for k in sides:
        moves = (tile_orders(draws, f"tiles/{k}/{i}", k) for i in range(repeats))
        curve.append(correct(model, y, (shuffle_tiles(x, move) for move in moves)).mean(1))
    right = torch.stack(curve, 1)
    clean = model.decisions(x) == y
    return Findings({"shuffled_kept": kept(right, clean)}, {}, {"shuffled": right}, {"shuffled": (np.array(sides),)})
