"""JPEG without its file: what compression and decompression do to a picture, to the last bit, on tensors.

Between the two a codec packs whole numbers without loss, which takes most of its time and changes nothing. What does
change the picture is here as libjpeg computes it: colours with 16 fractional bits, cosine transforms with constants of
13 bits and two roundings each, division by the table of the quality, and colours of half the resolution drawn up by
weights of 3 to 1. All sums are of whole numbers that float32 holds, so that the order of summation does not matter.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32),
)
"""Tables of ITU-T T.81, Annex K, for quality 50."""
FORWARD = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
BACKWARD = ((65536, 0, 91881), (65536, -22554, -46802), (65536, 116130, 0))
"""Between red, green, blue and luma, blueness, redness, in 65,536ths."""


def through(levels: Tensor, quality: int) -> Tensor:
    """Return pictures after one way through JPEG, colours at half the resolution.

    Args:
        levels: (B, C, H, W), whole numbers from 0 to 255; grey or RGB.
        quality: of the JPEG, 1 to 100.

    Returns:
        (B, C, H, W), whole numbers from 0 to 255.
    """
    height, width = levels.shape[-2:]
    if levels.shape[1] == 1:
        return _coded(levels[:, 0] - 128, LUMA, quality)[:, None] + 128
    # The level shift by 128 is taken off with the rounding.
    parts = _mixed(FORWARD, levels)
    luma = _coded(parts[:, 0].add_(0.5).floor_().sub_(128), LUMA, quality)
    chroma = parts[:, 1:].add_(32767 / 65536).floor_()
    halved = _coded(_halved(chroma), CHROMA, quality)
    drawn = torch.empty_like(levels)
    drawn[:, 0] = luma
    drawn[:, 1:] = _doubled(halved, height, width)
    # Luma as it is and 0.5 for the rounding keep every partial sum exact that is not clipped in the end.
    drawn[:, 0] += 128.5
    return _mixed(BACKWARD, drawn).floor_().clamp_(0, 255)


def _mixed(matrix: tuple[tuple[int, ...], ...], x: Tensor) -> Tensor:
    weights = x.new_tensor(matrix).div_(65536).expand(len(x), -1, -1)
    return torch.bmm(weights, x.flatten(2)).view_as(x)


def _halved(x: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels (B, C, H, W), rounded up from a half in every second column, the last pixels repeated."""
    height, width = x.shape[-2:]
    broad = _up_to(width, 16)
    x = functional.pad(x, (0, broad - width, 0, height % 2), mode="replicate")
    pairs = x[..., ::2, :] + x[..., 1::2, :]
    sums = pairs[..., ::2] + pairs[..., 1::2]
    return sums.mul_(0.25).add_(x.new_tensor([0.25, 0.5]).repeat(broad // 4)).floor_()


def _doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Return (B, C, ceil(H / 2), ...) at twice the resolution: every pixel 9, 3, 3, 1 sixteenths of its four nearest."""
    x = x[..., : -(-width // 2)]
    if x.shape[-1] <= 2:
        return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
    tall = x.mul(1 / 16)
    tall = functional.pad(tall, (1, 1, 1, 1), mode="replicate")
    middle = tall[..., 1:-1, :] * 3
    rows = torch.stack([middle + tall[..., :-2, :], middle + tall[..., 2:, :]], -2).flatten(-3, -2)
    out = rows.new_empty(*rows.shape[:-1], 2 * x.shape[-1])
    near = rows[..., 1:-1] * 3
    torch.add(near + 8 / 16, rows[..., :-2], out=out[..., ::2])
    torch.add(near.add_(7 / 16), rows[..., 2:], out=out[..., 1::2])
    return out[..., :height, :width].floor_()


def _coded(x: Tensor, table: tuple[int, ...], quality: int) -> Tensor:
    """Return planes (..., H, W) of whole numbers from -128 to 127 with the coefficients of their blocks quantised."""
    height, width = x.shape[-2:]
    tall, broad = _up_to(height, 8), _up_to(width, 8)
    if (tall, broad) != (height, width):
        planes = x.reshape(1, -1, height, width)
        x = functional.pad(planes, (0, broad - width, 0, tall - height), mode="replicate").view(
            *x.shape[:-2], tall, broad
        )
    forward, backward, steps = _constants(table, quality, broad, x.dtype)
    # Rows: 8 x 8 numbers of at most 2^7 times 2^14 are exact at once; two fractional bits stay.
    found = (x.reshape(-1, 8) @ forward[0]).add_(0.5).floor_()
    found = _transformed(found.view(-1, 8, broad), forward[1:], 256, 0.5)
    steps, shares = steps
    found.mul_(shares).round_().mul_(steps)
    found = _transformed(found, backward[:2], 16, 0.5).view(-1, 8)
    high, low = (found @ part for part in backward[2:])
    found = high.add_(low.floor_()).mul_(1 / 2048).add_(0.5).floor_().clamp_(-128, 127)
    return found.view(x.shape)[..., :height, :width]


def _transformed(x: Tensor, parts: tuple[Tensor, ...], over: int, rounding: float) -> Tensor:
    """Return columns of blocks (N, 8, W) transformed, the upper and the lower bits of the constants apart."""
    high, low = (torch.matmul(part, x) for part in parts)
    return high.add_(low.floor_()).mul_(1 / over).add_(rounding).floor_()


def _up_to(length: int, unit: int) -> int:
    return -(-length // unit) * unit


@lru_cache(maxsize=32)
def _constants(
    table: tuple[int, ...], quality: int, width: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """Return the matrices of both transforms, in parts, and the steps of a quality with their inverses: (8, width)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((np.array(table).reshape(8, 8) * scale + 50) // 100, 1, 255)
    matrix = _cosines()
    high = (matrix + 64) // 128
    low = (matrix - 128 * high) / 128
    rows = np.tile(steps, width // 8).astype(float)
    # A little more than the inverse: a coefficient half way between two steps goes away from 0.
    numbers = (matrix.T / 2048, high, low, high.T, low.T, high, low, rows, (1 + 2.0**-18) / (8 * rows))
    tensors = [torch.from_numpy(np.ascontiguousarray(part, dtype=float)).to(dtype) for part in numbers]
    return tuple(tensors[:3]), tuple(tensors[3:7]), (tensors[7], tensors[8])


def _cosines() -> np.ndarray:
    """Return sqrt(8) times the cosine transform in 8,192ths, as sums of the rounded constants of Loeffler et al.: int64."""
    a = {value: round(value * 8192) for value in (0.541196100, 0.765366865, 1.847759065, 1.175875602)}
    b = [round(value * 8192) for value in (0.298631336, 2.053119869, 3.072711026, 1.501321110)]
    c = [round(value * 8192) for value in (0.899976223, 2.562915447, 1.961570560, 0.390180644)]
    unit = np.eye(8, dtype=np.int64)
    plus, minus = unit[:4] + unit[:3:-1], (unit[:4] - unit[:3:-1])[::-1]
    ends, middles = plus[[0, 1]] + plus[[3, 2]], plus[[0, 1]] - plus[[3, 2]]
    tilt = (middles[0] + middles[1]) * a[0.541196100]
    z = [minus[0] + minus[3], minus[1] + minus[2], minus[0] + minus[2], minus[1] + minus[3]]
    both = (z[2] + z[3]) * a[1.175875602]
    first, second = -z[0] * c[0], -z[1] * c[1]
    third, fourth = both - z[2] * c[2], both - z[3] * c[3]
    return np.stack(
        [
            (ends[0] + ends[1]) * 8192,
            minus[3] * b[3] + first + fourth,
            tilt + middles[0] * a[0.765366865],
            minus[2] * b[2] + second + third,
            (ends[0] - ends[1]) * 8192,
            minus[1] * b[1] + second + fourth,
            tilt - middles[1] * a[1.847759065],
            minus[0] * b[0] + first + third,
        ]
    )
