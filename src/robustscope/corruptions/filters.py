"""Linear filters: every value is the same sum in the same order, however the batch is cut."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Edge = Literal["nearest", "reflect", "mirror"]
BLOCK = 56
"""Rows of a band matrix that are multiplied at a time; more multiply more zeros, fewer make shorter products."""


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
    half = tuple(gaussian_weights(sigma, truncate).tolist())
    if len(half) == 1:
        return x
    planes = x.reshape(-1, *x.shape[-2:])
    for axis in axes:
        planes = _banded(planes, axis, half, edge)
    return planes.view(x.shape)


def gaussian_field(x: Tensor, sigma: float, *, truncate: float = 3.0, edge: Edge = "reflect") -> Tensor:
    """Blur fields by a Gaussian that may be wider than they are; as :func:`gaussian`, with SciPy's defaults."""
    return gaussian(x, sigma, truncate=truncate, edge=edge)


def _banded(x: Tensor, axis: int, half: tuple[float, ...], edge: Edge, added: Tensor | None = None) -> Tensor:
    """Correlate planes with a symmetric kernel along an axis, by products with the blocks of a band matrix.

    A product of matrices takes a twelfth of the time of its sums one by one. Every plane has a product of its own, of
    the same shape in every batch, so that its sums are the same in every batch.

    Args:
        x: (N, H, W).
        axis: -1 or -2.
        half: one half of the kernel, the centre first.
        edge: what stands outside; see :func:`extend`.
        added: (N, H, W) to which the result is added, in place; None starts from 0.
    """
    count, length, reach = len(x), x.shape[axis], len(half) - 1
    matrix = _matrix(half, length, edge, x.dtype).to(x.device)
    out = torch.empty_like(x) if added is None else added
    block = length if length < 2 * BLOCK else BLOCK
    for first in range(0, length, block):
        last = min(first + block, length)
        low, high = max(0, first - reach), min(length, last + reach)
        part, target = (whole.narrow(axis, a, b - a) for whole, a, b in ((x, low, high), (out, first, last)))
        weights = matrix[first:last, low:high].expand(count, -1, -1)
        pair = (part, weights.mT) if axis == -1 else (weights, part)
        if added is None:
            torch.bmm(*pair, out=target)
        else:
            torch.baddbmm(target, *pair, out=target)
    return out


@lru_cache(maxsize=128)
def _matrix(half: tuple[float, ...], length: int, edge: Edge, dtype: torch.dtype) -> Tensor:
    """Return the matrix of a symmetric kernel on a line of so many values: (length, length)."""
    reach = len(half) - 1
    kernel = np.concatenate([half[:0:-1], half])
    places = _outside(length, reach, reach, edge)
    windows = np.lib.stride_tricks.sliding_window_view(places, 2 * reach + 1)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], windows), kernel)
    return torch.from_numpy(matrix).to(dtype)


def _symmetric(x: Tensor, axis: int, half: list[float], edge: Edge) -> Tensor:
    """As :func:`_banded`, by shifted sums: whole numbers stay whole."""
    radius, length = len(half) - 1, x.shape[axis]
    if radius == 0:
        return x
    wide = extend(x, axis, radius, radius, edge)
    out = wide.narrow(axis, radius, length) * half[0]
    for i in range(1, radius + 1):
        out.add_(wide.narrow(axis, radius - i, length), alpha=half[i])
        out.add_(wide.narrow(axis, radius + i, length), alpha=half[i])
    return out


def box3(x: Tensor) -> Tensor:
    """Return the mean of the 3 x 3 pixels around each, mirrored at the edges."""
    return _symmetric(_symmetric(x, -2, [1.0, 1.0], "mirror"), -1, [1.0, 1.0], "mirror") / 9


@lru_cache(maxsize=16)
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

    Small pictures by products with band matrices, one for each row of the kernel; large ones by Fourier transforms, one
    picture at a time, so that their sums are the same in every batch.

    Args:
        x: (..., C, H, W).
        kernel: float64 (K, K), K odd.
    """
    reach = len(kernel) // 2
    # What is below the last digit of float32 does not count.
    quarter = np.where(np.abs(kernel[reach:, reach:]) > 1e-9, kernel[reach:, reach:], 0.0)
    high, wide = (int(np.flatnonzero(quarter.any(axis)).max(initial=0)) for axis in (1, 0))
    quarter = quarter[: high + 1, : wide + 1]
    if max(x.shape[-2:]) < 2 * BLOCK:
        return _by_rows(x, quarter)
    pictures = x.reshape(-1, *x.shape[-3:])
    return torch.stack([_by_fourier(picture, quarter) for picture in pictures]).view(x.shape)


def _by_rows(x: Tensor, quarter: np.ndarray) -> Tensor:
    high, height = len(quarter) - 1, x.shape[-2]
    planes = x.reshape(-1, *x.shape[-2:])
    padded = extend(planes, -2, high, high, "mirror")
    out = torch.zeros_like(planes)
    for row, half in enumerate(quarter.tolist()):
        both = padded.narrow(-2, high + row, height)
        if row:
            both = both + padded.narrow(-2, high - row, height)
        _banded(both, -1, tuple(half), "mirror", out)
    return out.view(x.shape)


def _by_fourier(picture: Tensor, quarter: np.ndarray) -> Tensor:
    (high, wide), (height, width) = (side - 1 for side in quarter.shape), picture.shape[-2:]
    shape = _fast(height + 2 * high), _fast(width + 2 * wide)
    padded = extend(extend(picture, -2, high, high, "mirror"), -1, wide, wide, "mirror")
    response = _response(quarter.tobytes(), quarter.shape, shape, picture.dtype).to(picture.device)
    found = torch.fft.irfft2(torch.fft.rfft2(padded, s=shape) * response, s=shape)
    return found[..., high : high + height, wide : wide + width]


def _fast(length: int) -> int:
    """Return the least length from ``length`` on that transforms are fast at: a multiple of 8 by 1, 3, 5, 9 or 15."""
    return min(odd << max(3, (-(-length // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


@lru_cache(maxsize=16)
def _response(quarter: bytes, parts: tuple[int, int], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the transform of a kernel about the origin, given by its quarter; real, as it is symmetric."""
    weights, kernel = np.frombuffer(quarter).reshape(parts), np.zeros(shape)
    rows, columns = (np.arange(1 - part, part) for part in parts)
    kernel[np.ix_(rows, columns)] = weights[np.abs(rows)[:, None], np.abs(columns)]
    return torch.from_numpy(np.ascontiguousarray(np.fft.rfft2(kernel).real)).to(dtype)


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
