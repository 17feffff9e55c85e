"""Pixelation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.tables import Constants, constant

SIZE = {
    "imagenet-c": (0.6, 0.5, 0.4, 0.3, 0.25),
    "tiny-imagenet-c": (0.9, 0.8, 0.7, 0.6, 0.5),
    "cifar-10-c": (0.95, 0.9, 0.85, 0.75, 0.65),
}


@register(
    "pixelate",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="digital",
)
def pixelate(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Shrink by the mean of the pixels whose centres fall together, and enlarge by repetition.

    As in Pillow, columns are averaged first, then rows, each rounded to 8 bits.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: unused; it is deterministic.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.
    """
    size = constant(SIZE, constants, x, severity)
    sides = x.shape[-2:]
    x = (x * 255 + 0.5).floor()
    for axis in (-1, -2):
        x = _shrunk(x, axis, max(1, int(x.shape[axis] * size)))
    for axis in (-2, -1):
        few, many = x.shape[axis], sides[axis]
        places = torch.from_numpy(((np.arange(many) + 0.5) * (few / many)).astype(np.int64))
        x = x.index_select(axis, places.to(x.device))
    return x / 255


def _shrunk(x: Tensor, axis: int, few: int) -> Tensor:
    """Return whole numbers averaged along an axis to ``few`` values, rounded."""
    many = x.shape[axis]
    scale = many / few
    centres = (np.arange(few) + 0.5) * scale
    first = np.maximum((centres - 0.5 * scale + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + 0.5 * scale + 0.5).astype(np.int64), many)
    # Pillow's box is open at its left end: a centre that lies there belongs to the pixel before.
    first += (first - centres + 0.5) / scale <= -0.5
    last -= (last - 1 - centres + 0.5) / scale > 0.5
    counts = last - first
    shape = [1] * x.dim()
    shape[axis] = few
    total = torch.zeros_like(x.narrow(axis, 0, few))
    for i in range(int(counts.max())):
        part = x.index_select(axis, torch.from_numpy(np.minimum(first + i, many - 1)).to(x.device))
        if (counts > i).all():
            total += part
        else:
            total += part * torch.from_numpy(counts > i).to(x).view(shape)
    return (total / torch.from_numpy(counts).to(x).view(shape) + 0.5).floor()
