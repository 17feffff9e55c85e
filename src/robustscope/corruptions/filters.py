"""Linear filters made of shifted slices: every value is the same sum in the same order, however the batch is cut."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Edge = Literal["nearest", "reflect", "mirror"]


def _outside(length: int, before: int, after: int, edge: Edge) -> np.ndarray:
    """Return which position stands at each of -before ... length + after - 1: int64 (before + length + after,)."""
    places = np.arange(-before, length + after)
    if edge == "nearest" or length == 1:
        return places.clip(0, length - 1)
    period = 2 * length if edge == "reflect" else 2 * length - 2
    folded = np.mod(places, period)
    return np.where(folded < length, folded, period - folded - (1 if edge == "reflect" else 0))


def extend(x: Tensor, axis: int, before: int, after: int, edge: Edge) -> Tensor:
    """Return ``x`` with more values at both ends of an axis.

    Args:
        x: any shape.
        axis: to extend.
        before, after: number of values.
        edge: "nearest" repeats the last value (a | a b c | c), "reflect" mirrors with it (b a | a b c), "mirror"
            without it (c b | a b c).
    """
    if not before and not after:
        return x
    length, skip = x.shape[axis], int(edge == "mirror")
    if max(before, after) + skip > length and edge != "nearest":
        return x.index_select(axis, torch.from_numpy(_outside(length, before, after, edge)).to(x.device))
    if edge == "nearest":
        shape = list(x.shape)
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, length - 1, 1)
        shape[axis] = before
        ends = [first.expand(shape)]
        shape[axis] = after
        ends.append(last.expand(shape))
    else:
        ends = [x.narrow(axis, skip, before).flip(axis), x.narrow(axis, length - after - skip, after).flip(axis)]
    return torch.cat([ends[0], x, ends[1]], axis)


def gaussian_weights(sigma: float, truncate: float) -> np.ndarray:
    """Return one half of a normalised Gaussian kernel, the centre first: float64 (radius + 1,)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    half = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    return half / (2 * half.sum() - half[0])


def gaussian(
    x: Tensor, sigma: float, *, truncate: float = 4.0, edge: Edge = "nearest", axes: tuple[int, ...] = (-2, -1)
) -> Tensor:
    """Blur by a Gaussian that ends ``truncate`` standard deviations from its centre.

    Args:
        x: (..., H, W).
        sigma: standard deviation in pixels; below 0.5 / ``truncate`` nothing is blurred.
        truncate: radius of the kernel, in sigmas, rounded to whole pixels.
        edge: what stands outside; see :func:`extend`.
        axes: along which to blur.
    """
    half = gaussian_weights(sigma, truncate)
    for axis in axes:
        x = _symmetric(x, axis, half.tolist(), edge)
    return x


def _symmetric(x: Tensor, axis: int, half: list[float], edge: Edge) -> Tensor:
    radius, length = len(half) - 1, x.shape[axis]
    if radius == 0:
        return x
    wide = extend(x, axis, radius, radius, edge)
    out = wide.narrow(axis, radius, length) * half[0]
    for i in range(1, radius + 1):
        out.add_(wide.narrow(axis, radius - i, length), alpha=half[i])
        out.add_(wide.narrow(axis, radius + i, length), alpha=half[i])
    return out


def gaussian_field(x: Tensor, sigma: float, *, truncate: float = 3.0, edge: Edge = "reflect") -> Tensor:
    """Blur fields (B, H, W) by a Gaussian that may be wider than they are, by one matrix for each axis, in float64."""
    half = gaussian_weights(sigma, truncate)
    if len(half) == 1:
        return x
    rows, columns = (_matrix(half, length, edge).to(x.device) for length in x.shape[-2:])
    return torch.stack([rows @ field @ columns.T for field in x.double()]).to(x.dtype)


def _matrix(half: np.ndarray, length: int, edge: Edge) -> Tensor:
    radius = len(half) - 1
    kernel = np.concatenate([half[:0:-1], half])
    places = _outside(length, radius, radius, edge)
    matrix = np.zeros((length, length))
    for row in range(length):
        np.add.at(matrix[row], places[row : row + 2 * radius + 1], kernel)
    return torch.from_numpy(matrix)


def box3(x: Tensor) -> Tensor:
    """Return the mean of the 3 x 3 pixels around each, mirrored at the edges."""
    return _symmetric(_symmetric(x, -2, [1.0, 1.0], "mirror"), -1, [1.0, 1.0], "mirror") / 9


def disc_kernel(radius: float, alias: float) -> np.ndarray:
    """Return the kernel of a defocused lens: a disc whose edge is softened by a small Gaussian.

    The grid has 17 x 17 pixels up to a radius of 8, else 2 radius + 1; softening reflects what leaves the grid. So the
    kernels of radius 8 and 10 sum to 1.013 and 1.011, as those of the benchmark.

    Returns:
        float64 (K, K), symmetric in both axes.
    """
    reach, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    axis = np.arange(-reach, reach + 1)
    disc = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)
    half = np.exp(-0.5 * (np.arange(soft + 1) / alias) ** 2)
    half /= 2 * half.sum() - half[0]
    kernel = torch.from_numpy(disc / disc.sum())
    for side in (0, 1):
        kernel = _symmetric(kernel, side, half.tolist(), "mirror")
    return kernel.numpy()


def symmetric_2d(x: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlate with a kernel that is symmetric in both axes, mirroring at the edges.

    A row of the kernel is a sum of centred boxes, one for each step of its values; a disc has few. Boxes grow by two
    slices each, so that the cost is that of the steps, not of the pixels of the kernel.

    Args:
        x: (..., H, W).
        kernel: float64 (K, K), K odd.
    """
    reach = len(kernel) // 2
    quarter = kernel[reach:, reach:]
    steps = quarter - np.pad(quarter, ((0, 0), (0, 1)))[:, 1:]
    # What is below the last digit of float32 is no step; the same kernel must need the same sums everywhere.
    steps = np.where(np.abs(steps) > 1e-9, steps, 0.0)
    high, wide = (int(np.flatnonzero(steps.any(axis)).max(initial=0)) for axis in (1, 0))
    height, width = x.shape[-2:]
    padded = extend(extend(x, -2, high, high, "mirror"), -1, wide, wide, "mirror")
    out = torch.zeros_like(x)
    box = padded.narrow(-1, wide, width).clone()
    for reached in range(wide + 1):
        if reached:
            box += padded.narrow(-1, wide - reached, width)
            box += padded.narrow(-1, wide + reached, width)
        for row in range(high + 1):
            weight = float(steps[row, reached])
            if weight:
                for place in (high - row, high + row)[: 2 if row else 1]:
                    out.add_(box.narrow(-2, place, height), alpha=weight)
    return out


def motion(x: Tensor, radius: int, sigma: float, angles: list[float]) -> Tensor:
    """Blur along a line: pixel i steps away counts exp(-i^2 / 2 sigma^2), to one side only, as in ImageMagick.

    Args:
        x: (B, C, H, W).
        radius: 2 radius + 1 pixels are weighed.
        sigma: of the weights, in pixels.
        angles: one for each sample, in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    # Samples in the order of their angles move alike in runs, which are moved together; small pictures gain from that.
    order = sorted(range(len(x)), key=angles.__getitem__)
    turns = np.radians(np.array([angles[i] for i in order]))[:, None]
    down, right = (np.ceil(steps * part(turns) - 0.5).astype(int) for part in (np.sin, np.cos))
    # Beyond its side a picture is its last pixel again.
    down, right = (move.clip(1 - side, side - 1) for move, side in zip((down, right), x.shape[-2:], strict=True))
    top, left = -int(down.min()), -int(right.min())
    sorted_x = x[order] if order != list(range(len(x))) else x
    wide = extend(sorted_x, -2, top, int(down.max()), "nearest")
    wide = extend(wide, -1, left, int(right.max()), "nearest")
    return _summed(wide, x.shape, order, down + top, right + left, weights.tolist())


def _summed(
    wide: Tensor, shape: torch.Size, order: list[int], rows: np.ndarray, columns: np.ndarray, weights: list[float]
) -> Tensor:
    """Return weighted sums of windows of extended pictures, put back from ``order``.

    Args:
        wide: (B, C, h, w), extended.
        shape: (B, C, H, W) of the windows.
        order: which sample stands at each place of ``wide``.
        rows, columns: int64 (B, T), where the windows of each begin.
        weights: T numbers.
    """
    count, channels, height, width = shape
    whole, plane, broad, _ = wide.stride()
    places = (rows * broad + columns).T
    starts = np.diff(places, axis=1, prepend=-1) != 0
    out = wide.new_zeros(shape)
    for found, begins, weight in zip(places, starts, weights, strict=True):
        firsts = np.flatnonzero(begins).tolist() if count > 1 else [0]
        for first, last, place in zip(firsts, [*firsts[1:], count], found[begins].tolist(), strict=True):
            size = (last - first, channels, height, width)
            window = wide.as_strided(size, (whole, plane, broad, 1), first * whole + place)
            (out if last - first == count else out.narrow(0, first, last - first)).add_(window, alpha=weight)
    if order == list(range(count)):
        return out
    return torch.empty_like(out).index_copy_(0, torch.tensor(order, device=out.device), out)
