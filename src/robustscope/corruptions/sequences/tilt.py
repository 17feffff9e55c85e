"""Tilt in space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS
from robustscope.corruptions.resample import projected
from robustscope.corruptions.sequences.cards import Constants, constant, register
from robustscope.corruptions.tables import on_levels

STEP = {"imagenet-p": 1.0, "tiny-imagenet-p": 1.0, "cifar-10-p": 0.75}
"""Degrees from frame to frame."""


@register(
    "tilt",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.3",
    bibtex=HENDRYCKS,
    context=True,
)
def tilt(x: Tensor, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Turn the plane of the picture about both of its axes at once, from -15 to 15 degrees (CIFAR-10-P: 11.25).

    The camera is as far away as the diagonal of the picture is long. Bilinearly; black outside.

    Args:
        x: (B, C, H, W), in [0, 1].
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, 31, C, H, W).

    Raises:
        InvalidValue: for unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.3; constants of the authors' programs.
    """
    frames = []
    for frame in range(31):
        matrix = _view(x, math.radians((frame - 15) * constant(STEP, constants, x)))
        frames.append(on_levels(projected(x, torch.linalg.inv(matrix), "zeros").clamp(0, 1), "nearest"))
    return torch.stack(frames, 1)


def _view(x: Tensor, angle: float) -> Tensor:
    """Return where a camera sees each (column, row, 1) of a plane turned about both axes: float64 (3, 3)."""
    height, width = x.shape[-2:]
    far = math.hypot(width, height)
    c, s = math.cos(angle), math.sin(angle)
    lift = torch.tensor([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]], dtype=torch.float64)
    # About the horizontal axis after the vertical one; the plane's third coordinate starts as 1, as in the programs.
    across = torch.tensor([[c, 0, -s], [0, 1, 0], [s, 0, c]], dtype=torch.float64)
    down = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
    space = down @ across @ lift + torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, far]], dtype=torch.float64)
    camera = torch.tensor([[far, 0, width / 2], [0, far, height / 2], [0, 0, 1]], dtype=torch.float64)
    return camera @ space
