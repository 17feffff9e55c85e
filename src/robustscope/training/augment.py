"""The random changes of pictures that the papers of the field train with.

Kept libraries draw from global generators, so that the picture a sample becomes would depend on the batch it is in and on
the number of workers. The two or three changes needed here are drawn for each sample instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue

Augmentation = Callable[[Tensor, Draws], Tensor]


def flip(x: Tensor, draws: Draws) -> Tensor:
    """Mirror each picture (B, C, H, W) left to right with probability 1/2."""
    mirrored = draws.integers("flip", 1, 0, 2).to(x.device).view(-1, 1, 1, 1).bool()
    return torch.where(mirrored, x.flip(3), x)


def crop(x: Tensor, draws: Draws, pad: int = 4) -> Tensor:
    """Shift each picture (B, C, H, W) by up to ``pad`` pixels in both directions; what comes in is 0.

    The same as padding by ``pad`` on each side and cutting out a random window of the old size.
    """
    _, _, height, width = x.shape
    offsets = draws.integers("crop", 2, 0, 2 * pad + 1).to(x.device)
    padded = F.pad(x, (pad, pad, pad, pad))
    rows = offsets[:, :1] + torch.arange(height, device=x.device)
    columns = offsets[:, 1:] + torch.arange(width, device=x.device)
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def cutout(x: Tensor, draws: Draws, side: int = 14) -> Tensor:
    """Set a square of ``side`` pixels around a random pixel of each picture (B, C, H, W) to 0; it may reach outside.

    Source: DeVries & Taylor 2017, arXiv:1708.04552; with side 14, Rice, Wong, Kolter 2020, arXiv:2002.11569, Sec. 4.
    """
    _, _, height, width = x.shape
    centre = torch.stack([draws.integers(f"cutout/{i}", 1, 0, n)[:, 0] for i, n in enumerate((height, width))], 1)
    low = (centre - side // 2).to(x.device)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows = (rows >= low[:, :1]) & (rows < low[:, :1] + side)
    inside_columns = (columns >= low[:, 1:]) & (columns < low[:, 1:] + side)
    return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


AUGMENTATIONS: Mapping[str, Augmentation] = {"flip": flip, "crop": crop, "cutout": cutout}


def augment(x: Tensor, names: tuple[str, ...], draws: Draws) -> Tensor:
    """Apply augmentations one after the other to pictures (B, C, H, W).

    Raises:
        InvalidValue: for inputs that are no pictures.
    """
    if names and x.dim() != 4:
        raise InvalidValue(
            f"augment={list(names)} was given for inputs of shape {tuple(x.shape[1:])}",
            "pictures (C, H, W) are allowed",
            "Leave augment empty.",
        )
    for name in names:
        x = AUGMENTATIONS[name](x, draws)
    return x
