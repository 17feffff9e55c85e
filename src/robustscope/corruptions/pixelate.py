"""Pixelation."""

from __future__ import annotations

from functools import lru_cache

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
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="digital",
    levels=True,
    known_failures={
        "grows_with_severity/cifar-10-c": "on smooth pictures 28 of 32 pixels miss the grid by more than 27 do",
        "grows_with_severity/mnist-c": "on smooth pictures 16 of 28 pixels miss the grid by more than 14 do",
    },
)
def pixelate(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Shrink by the mean of the pixels whose centres fall together, and enlarge by repetition.

    As in Pillow, columns are averaged first, then rows, each mean rounded to 8 bits.

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
    few = [max(1, int(side * size)) for side in (height, width)]
    # Columns first, then rows, then columns again: so the fewest values are moved.
    narrow = _shrunk(x.view(-1, width), few[1], 255).view(-1, height, few[1])
    small = _shrunk(narrow, few[0], 1).div_(255)
    broad = small.view(-1, few[1]).index_select(1, _centres(width, few[1]).to(x.device))
    return broad.view(-1, few[0], width).index_select(1, _centres(height, few[0]).to(x.device)).view(x.shape)


@lru_cache(maxsize=64)
def _centres(many: int, few: int) -> Tensor:
    """Return for each of ``many`` pixels which of ``few`` boxes holds its centre: int64 (many,)."""
    return torch.from_numpy(((np.arange(many) + 0.5) * (few / many)).astype(np.int64))


def _shrunk(x: Tensor, few: int, unit: int) -> Tensor:
    """Return values (N, many, ...) times ``unit`` averaged to ``few`` along their second axis, and rounded."""
    places, masks, share = _boxes(x.shape[1], few, x.dtype)
    shape = (few, *[1] * (x.dim() - 2))
    total = x.index_select(1, places[0].to(x.device))
    for place, mask in zip(places[1:], masks, strict=True):
        part = x.index_select(1, place.to(x.device))
        if mask is None:
            total += part
        else:
            total.addcmul_(part, mask.to(x.device).view(shape))
    # A thousandth more than a half, as a third of three need not be one.
    return total.mul_((share * unit).to(x.device).view(shape)).add_(0.501).floor_()


@lru_cache(maxsize=64)
def _boxes(many: int, few: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
    """Return which of ``many`` pixels fall into each of ``few`` boxes, as Pillow counts them.

    Returns:
        int64 (few,), the first pixel of each box, the second and so on, as many as the fullest has; from the second on,
        which boxes have so many, 0 or 1 (few,), or None if all have; one over how many each has (few,).
    """
    scale = many / few
    centres = (np.arange(few) + 0.5) * scale
    first = np.maximum((centres - 0.5 * scale + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + 0.5 * scale + 0.5).astype(np.int64), many)
    # Pillow's box is open at its left end: a centre that lies there belongs to the pixel before.
    first += (first - centres + 0.5) / scale <= -0.5
    last -= (last - 1 - centres + 0.5) / scale > 0.5
    counts = last - first
    places = [torch.from_numpy(np.minimum(first + i, many - 1)) for i in range(int(counts.max()))]
    masks = [
        None if (counts > i).all() else torch.from_numpy(counts > i).to(dtype) for i in range(1, int(counts.max()))
    ]
    return places, masks, torch.from_numpy(1 / counts).to(dtype)
