"""Glass blur."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.filters import gaussian
from robustscope.corruptions.gaussian_blur import legacy_axes
from robustscope.corruptions.tables import Constants, benchmark, constant, on_levels

GLASS = {
    "imagenet-c": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "tiny-imagenet-c": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "cifar-10-c": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
}
"""Sigma, largest distance, rounds."""


@register(
    "glass_blur",
    version=2,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="blur",
    stochastic=True,
    known_failures={
        "grows_with_severity": "sigma, distance and rounds do not rise together in the constants of the benchmarks"
    },
)
def glass_blur(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Blur, move pixels about, and blur again, as frosted glass does.

    From the last pixel to the first, each takes the value of one up to d - 1 below or right and d above or left of it.
    That is what the programs of ImageNet-C and CIFAR-10-C do, where the paper speaks of a swap: on colours their
    exchange is a copy. MNIST-C does swap, every second pixel.

    Args:
        x: (B, C, H, W), in [0, 1].
        severity: 1 to 5.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken; "auto" goes by the size of the pictures. With "mnist-c" pixels
            are swapped and only columns blurred, as in that benchmark.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.

    Departures: the walk over the pixels is not made but resolved: each pixel points to another, and pointers are
    followed in doubling steps. The process is the same, pixel by pixel.
    """
    sigma, distance, rounds = constant(GLASS, constants, x, severity)
    axes = legacy_axes(constants, x)
    x = on_levels(gaussian(x, sigma, axes=axes).clone(), "truncate")
    rows, columns = (side - 2 * distance for side in x.shape[-2:])
    if rows < 1 or columns < 1:
        return gaussian(x, sigma, axes=axes).clamp(0, 1)
    swap = benchmark(constants, x) == "mnist-c"
    for number in range(rounds):
        steps = draws.integers(f"steps/{number}", 2 * rows * columns, -distance, distance)
        steps = steps.view(len(x), 2, rows, columns).to(x.device)
        if swap:
            chance = draws.integers(f"chance/{number}", rows * columns, 0, 2).view(len(x), rows, columns).to(x.device)
            x = swapped(x, steps[:, 0], steps[:, 1], chance.bool(), distance)
        else:
            x = copied(x, steps[:, 0], steps[:, 1], distance)
    return gaussian(x, sigma, axes=axes).clamp(0, 1)


def _targets(x: Tensor, right: Tensor, down: Tensor, distance: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the pixels that are walked, and of those that they take: int64 (n,), (B, n)."""
    height, width = x.shape[-2:]
    row = torch.arange(distance + 1, height - distance + 1, device=x.device)[:, None]
    column = torch.arange(distance + 1, width - distance + 1, device=x.device)
    return (row * width + column).flatten(), ((row + down) * width + column + right).flatten(1)


def copied(x: Tensor, right: Tensor, down: Tensor, distance: int) -> Tensor:
    """Walk from the last pixel to the first, each taking the value that another has by then.

    Args:
        x: (B, C, H, W).
        right, down: int64 (B, H - 2d, W - 2d), steps to the other pixel.
        distance: d, the width of the border where no pixel is walked.
    """
    walked, taken = _targets(x, right, down, distance)
    places = torch.arange(x.shape[-2] * x.shape[-1], device=x.device).expand(len(x), -1).clone()
    inside = torch.zeros(places.shape[1], dtype=torch.bool, device=x.device)
    inside[walked] = True
    # A pixel that was walked earlier (a later number) is followed to where its value came from; others end the path.
    source = places.clone()
    source[:, walked] = taken
    ends = places.clone()
    follow = inside[taken] & (taken > walked)
    ends[:, walked] = torch.where(follow, taken, walked)
    while True:
        further = ends.gather(1, ends)
        if torch.equal(further, ends):
            break
        ends = further
    final = source.gather(1, ends)
    return x.flatten(2).gather(2, final[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def swapped(x: Tensor, right: Tensor, down: Tensor, chance: Tensor, distance: int) -> Tensor:
    """Walk from the last pixel to the first, exchanging each with another where ``chance`` says so.

    Args:
        x: (B, C, H, W).
        right, down: int64 (B, H - 2d, W - 2d), steps to the other pixel.
        chance: bool (B, H - 2d, W - 2d).
        distance: d, the width of the border where no walk begins.
    """
    walked, taken = _targets(x, right, down, distance)
    taken = torch.where(chance.flatten(1), taken, walked)
    values = x.flatten(2).permute(2, 1, 0).clone()  # (pixels, C, B)
    samples = torch.arange(len(x), device=x.device)
    for number in range(len(walked) - 1, -1, -1):
        pixel, other = int(walked[number]), taken[:, number]
        mine, theirs = values[pixel].clone(), values[other, :, samples]
        values[pixel] = theirs.T
        values[other, :, samples] = mine.T
    return values.permute(2, 1, 0).reshape(x.shape)
