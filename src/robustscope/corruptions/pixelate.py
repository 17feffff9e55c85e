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
    known_failures={
        "grows_with_severity/cifar-10-c": "on smooth pictures 28 of 32 pixels miss the grid by more than 27 do",
        "grows_with_severity/mnist-c": "on smooth pictures 16 of 28 pixels miss the grid by more than 14 do",
    },
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
    height, width = x.shape[-2:]
    # Rows are copied much faster than columns, so columns are turned into rows, and back while the picture is small.
    x = (x * 255).add_(0.5).floor_().transpose(-1, -2).contiguous()
    x = _shrunk(x, max(1, int(width * size))).transpose(-1, -2).contiguous()
    x = _shrunk(x, max(1, int(height * size))).div_(255).transpose(-1, -2).contiguous()
    return _repeated(_repeated(x, width).transpose(-1, -2).contiguous(), height)


def _repeated(x: Tensor, many: int) -> Tensor:
    """Return ``many`` rows, each the one that holds its centre."""
    places = ((np.arange(many) + 0.5) * (x.shape[-2] / many)).astype(np.int64)
    return x.index_select(-2, torch.from_numpy(places).to(x.device))


def _shrunk(x: Tensor, few: int) -> Tensor:
    """Return whole numbers (..., H, W) averaged to ``few`` rows, rounded."""
    many = x.shape[-2]
    scale = many / few
    centres = (np.arange(few) + 0.5) * scale
    first = np.maximum((centres - 0.5 * scale + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + 0.5 * scale + 0.5).astype(np.int64), many)
    # Pillow's box is open at its left end: a centre that lies there belongs to the pixel before.
    first += (first - centres + 0.5) / scale <= -0.5
    last -= (last - 1 - centres + 0.5) / scale > 0.5
    counts = torch.from_numpy(last - first).to(x.device)[:, None]
    most, least = int(counts.max()), int(counts.min())
    total = x.index_select(-2, torch.from_numpy(first).to(x.device))
    for i in range(1, most):
        part = x.index_select(-2, torch.from_numpy(np.minimum(first + i, many - 1)).to(x.device))
        total += part if i < least else part.mul_(counts > i)
    return total.div_(counts).add_(0.5).floor_()
