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
    # The level shift by 128 is taken off with the rounding of luma; that of colours is in their definition.
    parts = _mixed(FORWARD, levels)
    luma = _coded(parts[:, 0].sub(127.5).floor_(), LUMA, quality)
    chroma = parts[:, 1:].add(32767 / 65536).floor_()
    halved = _coded(_halved(chroma), CHROMA, quality)
    # Luma as it is and 0.5 for the rounding keep every partial sum exact that is not clipped in the end.
    torch.add(luma, 128.5, out=parts[:, 0])
    parts[:, 1:] = _doubled(halved, height, width)
    return _mixed(BACKWARD, parts).floor_().clamp_(0, 255)


def _mixed(matrix: tuple[tuple[int, ...], ...], x: Tensor) -> Tensor:
    weights = _weights(matrix, x.dtype).to(x.device).expand(len(x), -1, -1)
    return torch.bmm(weights, x.flatten(2)).view_as(x)


@lru_cache(maxsize=8)
def _weights(matrix: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor(matrix, dtype=dtype).div_(65536)


def _halved(x: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels (B, C, H, W), rounded up from a half in every second column, the last pixels repeated."""
    height, width = x.shape[-2:]
    broad = _up_to(width, 16)
    if broad > width or height % 2:
        x = functional.pad(x, (0, broad - width, 0, height % 2), mode="replicate")
    pairs = x[..., ::2, :] + x[..., 1::2, :]
    sums = pairs[..., ::2] + pairs[..., 1::2]
    sums[..., 1::2] += 1
    return sums.mul_(0.25).add_(0.25).floor_()


def _doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Return (B, C, ceil(H / 2), ...) at twice the resolution: every pixel 9, 3, 3, 1 sixteenths of its four nearest."""
    x = x[..., : -(-width // 2)]
    if x.shape[-1] <= 2:
        return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
    tall = functional.pad(x, (1, 1, 1, 1), mode="replicate").mul_(1 / 16)
    middle = tall[..., 1:-1, :] * 3
    rows = tall.new_empty(*x.shape[:-1], 2, tall.shape[-1])
    torch.add(middle, tall[..., :-2, :], out=rows[..., 0, :])
    torch.add(middle, tall[..., 2:, :], out=rows[..., 1, :])
    rows = rows.flatten(-3, -2)
    out = rows.new_empty(*rows.shape[:-1], 2 * x.shape[-1])
    near = (rows[..., 1:-1] * 3).add_(7 / 16)
    torch.add(near, rows[..., 2:], out=out[..., 1::2])
    torch.add(near.add_(1 / 16), rows[..., :-2], out=out[..., ::2])
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
    parts = [part.to(x.device) for part in _constants(table, quality, broad, x.dtype)]
    # Rows: 8 x 8 numbers of at most 2^7 times 2^14 are exact at once; two fractional bits stay.
    found = (x.reshape(-1, 8) @ parts[0]).add_(0.5).floor_()
    found = _transformed(found.view(-1, 8, broad), parts[1], 256)
    found.mul_(parts[2]).round_().mul_(parts[3])
    found = _transformed(found, parts[4], 16).view(-1, 8)
    high, low = found @ parts[5], found @ parts[6]
    found = high.add_(low.floor_(), alpha=1 / 2048).add_(0.5).floor_().clamp_(-128, 127)
    return found.view(x.shape)[..., :height, :width]


def _transformed(x: Tensor, parts: Tensor, over: int) -> Tensor:
    """Return columns of blocks (N, 8, W) transformed, by the upper and the lower bits of the constants."""
    found = torch.bmm(parts.expand(len(x), -1, -1), x)
    high, low = found[:, :8], found[:, 8:]
    return torch.add(high, low.floor_(), alpha=1 / over).add_(0.5).floor_()


def _up_to(length: int, unit: int) -> int:
    return -(-length // unit) * unit


@lru_cache(maxsize=32)
def _constants(table: tuple[int, ...], quality: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Return what one way through a block takes, in this order.

    The constants are split at 2^7, so that float32 holds every sum; what the lower part leaves below 1 cannot matter.

    Returns:
        (8, 8) for rows; (16, 8) for columns, the upper over the lower part; (8, width) one over the steps of the
        quality, and the steps; (16, 8) for columns back; (8, 8) for rows back, the upper and the lower part.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((np.array(table).reshape(8, 8) * scale + 50) // 100, 1, 255)
    matrix = _cosines()
    high = (matrix + 64) // 128
    low = (matrix - 128 * high) / 128
    rows = np.tile(steps, width // 8).astype(float)
    # A little more than the inverse: a coefficient half way between two steps goes away from 0.
    numbers = [matrix.T / 2048, np.vstack([high / 256, low]), (1 + 2.0**-18) / (8 * rows), rows]
    numbers += [np.vstack([high.T / 16, low.T]), high / 2048, low]
    return [torch.from_numpy(np.ascontiguousarray(part, dtype=float)).to(dtype) for part in numbers]


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
