"""Spatter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.colours import grey
from robustscope.corruptions.edges import canny_of_levels
from robustscope.corruptions.filters import box3, extend, gaussian
from robustscope.corruptions.tables import Constants, benchmark, constant

SPATTER = {
    "imagenet-c": (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    ),
    "tiny-imagenet-c": (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    "cifar-10-c": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
}
"""Mean, sigma and smoothness of the drops, threshold, strength of water or smoothness of mud, whether it is mud."""

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)
FAR = 20
"""Pixels beyond which the distance from the rim of a drop does not matter."""


@register(
    "spatter",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Appendix B",
    bibtex=HENDRYCKS,
    family="weather",
    stochastic=True,
    channels=(1, 3),
    known_failures={
        "grows_with_severity/mnist-c": "all is mud here, and the constants of water (1 to 3) make more drops than those of mud"
    },
)
def spatter(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Sprinkle water with bright rims (severities 1 to 3) or mud (4 and 5) on the picture.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        severity: 1 to 5.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures. With "mnist-c" it is
            always mud, of the grey value 63/255.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Appendix B; constants of the authors' programs.

    Departures: distances from a rim are Euclidean, where OpenCV approximates them by steps (2 % at most). A picture
    without any drop stays as it is, where the programs of the benchmark divide by zero.
    """
    mean, sigma, smooth, threshold, last, mud = constant(SPATTER, constants, x, severity)
    drops = mean + sigma * draws.normal("drops", x.new_empty(len(x), *x.shape[-2:]))
    drops = gaussian(drops, smooth)
    legacy = benchmark(constants, x) == "mnist-c"
    if mud or legacy:
        cover = gaussian((drops > threshold).to(x.dtype), last)
        cover = torch.where(cover < 0.8, 0, cover)[:, None]
        colour = (MUD[0],) if legacy else _in_channels(x, MUD)
        return (x * (1 - cover) + x.new_tensor(colour).view(1, -1, 1, 1) * cover).clamp(0, 1)
    levels = (torch.where(drops < threshold, 0, drops) * 255).floor().clamp(0, 255)
    wet = levels * _rims(levels)
    most = wet.amax((1, 2), keepdim=True)
    wet = torch.where(most > 0, wet / most, 0)[:, None] * last
    return (x + wet * x.new_tensor(_in_channels(x, WATER)).view(1, -1, 1, 1)).clamp(0, 1)


def _in_channels(x: Tensor, colour: tuple[float, ...]) -> tuple[float, ...]:
    return colour if x.shape[1] == 3 else (float(grey(torch.tensor(colour).view(1, 3, 1, 1))),)


def _rims(levels: Tensor) -> Tensor:
    """Return how water shines at each pixel, from the distance to the rims of the drops: whole numbers (B, H, W)."""
    far = _distance(canny_of_levels(levels, 50, 150))
    far = _equalised(box3(far).floor())
    height, width = far.shape[-2:]
    wide = extend(extend(far, -2, 1, 1, "mirror"), -1, 1, 1, "mirror")
    lit = torch.zeros_like(far)
    for i, row in enumerate(((-2, -1, 0), (-1, 1, 1), (0, 1, 2))):
        for j, weight in enumerate(row):
            lit.add_(wide[:, i : i + height, j : j + width], alpha=weight)
    return box3(lit.clamp(0, 255)).round()


def _distance(edges: Tensor) -> Tensor:
    """Return the distance to the nearest edge, at most ``FAR``: (B, H, W)."""
    far = torch.where(edges, 0.0, float(FAR))
    # Steps of 1, 2, 4, 8 and 16 reach every distance up to 31.
    for step in (1, 2, 4, 8, 16):
        near = functional.pad(far, (0, 0, step, step), value=float(FAR)) + step
        far = torch.minimum(far, torch.minimum(near[:, : -2 * step], near[:, 2 * step :]))
    squares = far**2
    wide = functional.pad(squares, (FAR, FAR), value=float(FAR**2))
    nearest, width = squares.clone(), edges.shape[-1]
    for step in range(1, FAR):
        beside = torch.minimum(wide[..., FAR - step :][..., :width], wide[..., FAR + step :][..., :width])
        nearest = torch.minimum(nearest, beside + step**2)
    return nearest.sqrt().clamp(max=FAR)


def _equalised(levels: Tensor) -> Tensor:
    """Return whole numbers from 0 to 255 with each picture's histogram made flat, as OpenCV does."""
    flat = levels.flatten(1).long()
    counts = torch.zeros(len(flat), 256, device=flat.device).scatter_add_(1, flat, torch.ones_like(flat).float())
    first = (counts > 0).int().argmax(1, keepdim=True)
    least = counts.gather(1, first)
    rest = flat.shape[1] - least
    table = ((counts.cumsum(1) - least).clamp(min=0) * (255 / rest.clamp(min=1))).round().clamp(0, 255)
    table = torch.where(rest > 0, table, torch.arange(256, device=flat.device, dtype=table.dtype))
    return table.gather(1, flat).view_as(levels)
