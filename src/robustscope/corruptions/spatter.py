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
from robustscope.corruptions.numbers import normal
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
    version=2,
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
    drops = normal(draws, "drops", x.new_empty(len(x), *x.shape[-2:])).mul_(sigma).add_(mean)
    drops = gaussian(drops, smooth)
    legacy = benchmark(constants, x) == "mnist-c"
    if mud or legacy:
        cover = gaussian((drops > threshold).to(x.dtype), last)
        cover = functional.threshold(cover, 0.8, 0.0)[:, None]
        colour = (MUD[0],) if legacy else _in_channels(x, MUD)
        return (x * (1 - cover)).addcmul_(x.new_tensor(colour).view(1, -1, 1, 1), cover).clamp_(0, 1)
    return wetted(x, functional.threshold(drops, threshold, 0.0), last)


def wetted(x: Tensor, water: Tensor, strength: float) -> Tensor:
    """Return pictures (B, C, H, W) behind water (B, H, W), of which 0 is none: pale turquoise, bright at its rims."""
    levels = (water * 255).floor_().clamp_(0, 255)
    wet = levels * _rims(levels)
    most = wet.amax((1, 2), keepdim=True)
    wet = torch.where(most > 0, wet / most, 0)[:, None] * strength
    return torch.addcmul(x, wet, x.new_tensor(_in_channels(x, WATER)).view(1, -1, 1, 1)).clamp_(0, 1)


def _in_channels(x: Tensor, colour: tuple[float, ...]) -> tuple[float, ...]:
    return colour if x.shape[1] == 3 else (float(grey(torch.tensor(colour).view(1, 3, 1, 1))),)


def _rims(levels: Tensor) -> Tensor:
    """Return how water shines at each pixel, from the distance to the rims of the drops: whole numbers (B, H, W)."""
    far = _distance(canny_of_levels(levels, 50, 150)).to(levels.dtype)
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
    # Whole numbers of 16 bits are compared twice as fast as floats.
    far = (~edges).to(torch.int16).mul_(FAR)
    # Steps of 1, 2, 4, 8 and 16 reach every distance up to 31.
    for step in (1, 2, 4, 8, 16):
        near = functional.pad(far, (0, 0, step, step), value=FAR).add_(step)
        far = torch.minimum(near[:, : -2 * step], near[:, 2 * step :]).clamp_(max=far)
    squares = far.mul_(far)
    wide = functional.pad(squares, (FAR, FAR), value=FAR**2)
    nearest, width = squares, edges.shape[-1]
    for step in range(1, FAR):
        beside = torch.minimum(wide.narrow(-1, FAR - step, width), wide.narrow(-1, FAR + step, width))
        torch.minimum(nearest, beside.add_(step**2), out=nearest)
    return nearest.float().sqrt_().clamp_(max=FAR)


def _equalised(levels: Tensor) -> Tensor:
    """Return whole numbers from 0 to 255 with each picture's histogram made flat, as OpenCV does."""
    # Of each picture the levels have places of their own among the counts.
    flat = levels.flatten(1).int()
    flat += 256 * torch.arange(len(flat), device=flat.device, dtype=torch.int32)[:, None]
    counts = torch.bincount(flat.view(-1), minlength=256 * len(flat)).view(-1, 256).float()
    first = (counts > 0).int().argmax(1, keepdim=True)
    least = counts.gather(1, first)
    rest = flat.shape[1] - least
    table = ((counts.cumsum(1) - least).clamp(min=0) * (255 / rest.clamp(min=1))).round().clamp(0, 255)
    table = torch.where(rest > 0, table, torch.arange(256, device=flat.device, dtype=table.dtype))
    return table.view(-1).index_select(0, flat.view(-1)).view_as(levels)
