"""Pictures at other places: zooms, affine maps and displacement fields, all bilinear."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from robustscope.core.draws import Draws


def crop_of_zoom(length: int, factor: float) -> tuple[int, int, int]:
    """Return where the part begins that a zoom enlarges, its length, and the length it is enlarged to."""
    part = math.ceil(length / factor)
    return (length - part) // 2, part, max(length, round(part * factor))


def enlarge(part: Tensor, shape: tuple[int, int], height: int, width: int) -> Tensor:
    """Enlarge pictures bilinearly, corners on corners, and cut out the centre.

    Args:
        part: (B, C, h, w).
        shape: to enlarge to, at least (height, width).
        height, width: of what is cut out.
    """
    if tuple(part.shape[-2:]) != shape:
        part = functional.interpolate(part, shape, mode="bilinear", align_corners=True)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    return part[..., top : top + height, left : left + width]


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of pictures (B, C, H, W) by a factor >= 1, bilinearly, corners on corners."""
    places = []
    for side in x.shape[-2:]:
        first, part, enlarged = crop_of_zoom(side, factor)
        shown = torch.arange(side, dtype=torch.float64) + (enlarged - side) // 2
        places.append((first + shown * (part - 1) / max(enlarged - 1, 1)).to(x))
    rows, columns = places
    return look_up(x, columns.view(1, 1, -1), rows.view(1, -1, 1), "mirror")


def pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of all pixels: columns (1, 1, W) and rows (1, H, 1)."""
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, -1)
    return columns, torch.arange(height, device=x.device, dtype=x.dtype).view(1, -1, 1)


def look_up(x: Tensor, columns: Tensor, rows: Tensor, edge: Literal["zeros", "mirror", "reflect"]) -> Tensor:
    """Return the values at given positions, bilinearly.

    Args:
        x: (B, C, H, W).
        columns, rows: positions in pixels, broadcast to (B, H, W).
        edge: what stands outside: nothing, or the picture mirrored without ("mirror") or with ("reflect") its last pixel.
    """
    height, width = x.shape[-2:]
    corners = edge != "reflect"
    if corners:
        parts = [2 * columns / max(width - 1, 1), 2 * rows / max(height - 1, 1)]
    else:
        parts = [(2 * columns + 1) / width, (2 * rows + 1) / height]
    # Written in place, as stacking takes longer than all the rest.
    grid = x.new_empty(*torch.broadcast_shapes(columns.shape, rows.shape), 2)
    for k, part in enumerate(parts):
        grid.select(-1, k).copy_(part - 1)
    grid = grid.expand(len(x), -1, -1, -1)
    padding = "zeros" if edge == "zeros" else "reflection"
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=corners)


def affine(x: Tensor, matrix: Tensor, edge: Literal["zeros", "mirror", "reflect"]) -> Tensor:
    """Return pictures whose pixel at (column, row) is that of ``x`` at ``matrix @ (column, row, 1)``.

    Args:
        x: (B, C, H, W).
        matrix: float64 (B, 2, 3).
        edge: see :func:`look_up`.
    """
    columns, rows = pixels(x.double())
    turned = matrix.to(x.device)[..., None, None]
    found = [turned[:, k, 0] * columns + turned[:, k, 1] * rows + turned[:, k, 2] for k in (0, 1)]
    return look_up(x, *(place.to(x.dtype) for place in found), edge)


def about_centre(linear: Tensor, x: Tensor) -> Tensor:
    """Return the maps (B, 2, 3) that have the linear part (B, 2, 2) and leave the centre of the pictures in place."""
    height, width = x.shape[-2:]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    return torch.cat([linear, (centre - linear @ centre)[..., None]], -1)


def one_of_two(x: Tensor, linear: Tensor, draws: Draws) -> Tensor:
    """Return pictures mapped by one of two linear parts (2, 2, 2) about their centre, drawn for each; 0 outside."""
    return affine(x, about_centre(linear[draws.integers("direction", 1, 0, 2)[:, 0]], x), "zeros")


def scaled(x: Tensor, size: float) -> Tensor:
    """Return pictures enlarged (or shrunk) about their centre, 0 outside."""
    linear = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2) / size
    return affine(x, about_centre(linear, x), "zeros")


def moved(x: Tensor, right: float, down: float = 0.0) -> Tensor:
    """Return the maps (B, 2, 3) of a picture that moves to the right and downwards by so many pixels."""
    maps = torch.eye(2, 3, dtype=torch.float64).repeat(len(x), 1, 1)
    maps[:, :, 2] = -torch.tensor([right, down], dtype=torch.float64)
    return maps


def projected(x: Tensor, matrix: Tensor, edge: Literal["zeros", "mirror", "reflect"]) -> Tensor:
    """Return pictures whose pixel at p = (column, row, 1) is that of ``x`` at ``matrix @ p``, divided by its third part.

    Args:
        x: (B, C, H, W).
        matrix: float64 (3, 3).
        edge: see :func:`look_up`.
    """
    columns, rows = pixels(x.double())
    m = matrix.tolist()
    parts = [m[k][0] * columns + m[k][1] * rows + m[k][2] for k in range(3)]
    return look_up(x, *((part / parts[2]).to(x.dtype) for part in parts[:2]), edge)
