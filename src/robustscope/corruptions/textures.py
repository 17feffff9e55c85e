"""Textures like frost on a window, made here: the photographs of the benchmark are their authors'."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from robustscope.core.draws import Draws

HEIGHT, WIDTH = 448, 640
KINDS = (
    # mean and standard deviation of red, green, blue (0 to 255); falloff of the spectrum; share of ridges
    ((78, 149, 166), (27, 16, 15), 1.2, 0.7),
    ((201, 205, 214), (21, 22, 23), 1.1, 0.5),
    ((201, 205, 214), (21, 22, 23), 1.3, 0.8),
    ((138, 153, 165), (28, 28, 30), 1.0, 0.6),
    ((112, 123, 135), (44, 43, 42), 1.25, 0.7),
)
"""Five textures with the colours, contrasts and spectra of the five photographs that the benchmark draws from."""


@lru_cache(maxsize=4)
def frost_textures(scale: float) -> Tensor:
    """Return the textures, which continue at their edges: float32 (5, 3, H, W), whole numbers from 0 to 255.

    Each is noise with a falling spectrum, of which a part is folded at zero, so that crystals' ridges appear.

    Args:
        scale: size; below 1 bilinearly, without smoothing.
    """
    made = []
    noise = Draws(0, tuple(range(len(KINDS))), "frost").normal("texture", torch.empty(len(KINDS), 2, HEIGHT, WIDTH))
    for (mean, spread, falloff, ridged), fields in zip(KINDS, noise.double(), strict=True):
        smooth, folded = (_shaped(field, falloff) for field in fields)
        height = _standard((1 - ridged) * smooth + ridged * _standard(-folded.abs()))
        channels = torch.tensor(mean)[:, None, None] + torch.tensor(spread)[:, None, None] * height
        made.append(channels.round().clamp(0, 255))
    textures = torch.stack(made).float()
    if scale == 1:
        return textures
    shape = (round(HEIGHT * scale), round(WIDTH * scale))
    return functional.interpolate(textures, shape, mode="bilinear", align_corners=False).round()


def _shaped(noise: Tensor, falloff: float) -> Tensor:
    """Return noise (H, W) whose amplitudes fall as frequency^-falloff, of mean 0 and standard deviation 1."""
    down = torch.fft.fftfreq(HEIGHT, dtype=torch.float64)[:, None]
    across = torch.fft.rfftfreq(WIDTH, dtype=torch.float64)
    frequency = (down**2 + across**2).sqrt().clamp(min=1 / WIDTH)
    return _standard(torch.fft.irfft2(torch.fft.rfft2(noise) * frequency**-falloff, s=noise.shape))


def _standard(field: Tensor) -> Tensor:
    return (field - field.mean()) / field.std()
