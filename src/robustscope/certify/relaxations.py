"""Nonlinear maps of a traced network, and the lines and bands that enclose them between given bounds.

For inputs z with lower <= z <= upper each map f gives two lines, a z + b <= f(z) <= c z + d (CROWN), and one band,
|f(z) - s z - m| <= r (DeepZ). Both hold for every z of the interval, not only for the values of one sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines under and over a map, one pair for each value: tensors (B, *S).

    Args:
        lower_slope, lower_offset: the line below.
        upper_slope, upper_offset: the line above.
        free: bool (B, *S), where any slope from ``least`` to 1 through the origin would do as the lower line; None
            where there is no such freedom.
        least: see ``free``.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor
    free: Tensor | None = None
    least: float = 0.0

    def select(self, rows: Tensor) -> Lines:
        """Return the lines of some samples."""
        free = None if self.free is None else self.free[rows]
        four = (self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset)
        return Lines(*(tensor[rows] for tensor in four), free, self.least)


@dataclass(frozen=True, eq=False)
class Band:
    """A band around a map, one for each value: tensors (B, *S), with |f(z) - slope z - middle| <= radius."""

    slope: Tensor
    middle: Tensor
    radius: Tensor


class Nonlinear(ABC):
    """An increasing map of single values."""

    name: str = ""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """Return f(z)."""

    @abstractmethod
    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return a line below and a line above on [lower, upper]."""

    @abstractmethod
    def band(self, lower: Tensor, upper: Tensor) -> Band:
        """Return the band of DeepZ on [lower, upper]."""

    def loose(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Tell where closer bounds would make closer lines."""
        return lower < upper


def chord(value: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and offset of the line through (lower, f) and (upper, f); a constant where they coincide."""
    width = upper - lower
    at_lower, at_upper = value(lower), value(upper)
    slope = torch.where(width > 0, (at_upper - at_lower) / width.masked_fill(width <= 0, 1), torch.zeros_like(width))
    return slope, at_lower - slope * lower


class Kinked(Nonlinear):
    """ReLU and leaky ReLU: z for z >= 0, ``slope`` z below.

    Args:
        slope: of the negative part, 0 to 1.
    """

    def __init__(self, slope: float = 0.0) -> None:
        self.slope, self.name = slope, "ReLU" if slope == 0 else "LeakyReLU"

    def value(self, z: Tensor) -> Tensor:
        """Return max(z, slope z)."""
        return F.leaky_relu(z, self.slope) if self.slope else z.clamp(min=0)

    def loose(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Tell where the kink lies inside."""
        return (lower < 0) & (upper > 0)

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return CROWN's lines: above the chord; below, through the origin, whichever leaves the smaller area."""
        free = self.loose(lower, upper)
        side = torch.where(lower >= 0, torch.ones_like(lower), torch.full_like(lower, self.slope))
        slope, offset = chord(self.value, lower, upper)
        below = torch.where(upper > -lower, torch.ones_like(lower), torch.full_like(lower, self.slope))
        zero = torch.zeros_like(lower)
        return Lines(
            torch.where(free, below, side),
            zero,
            torch.where(free, slope, side),
            torch.where(free, offset, zero),
            free,
            self.slope,
        )

    def band(self, lower: Tensor, upper: Tensor) -> Band:
        """Return the band of least area: parallel to the chord."""
        free = self.loose(lower, upper)
        side = torch.where(lower >= 0, torch.ones_like(lower), torch.full_like(lower, self.slope))
        slope, offset = chord(self.value, lower, upper)
        half = torch.where(free, offset / 2, torch.zeros_like(offset))
        return Band(torch.where(free, slope, side), half, half)


class Clipped(Nonlinear):
    """Clipping to [low, high]: ReLU6, hard tanh, ``clamp``.

    Args:
        low, high: ends, low < high, finite.
    """

    name = "Hardtanh"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def value(self, z: Tensor) -> Tensor:
        """Return z inside [low, high], the nearer end outside."""
        return z.clamp(self.low, self.high)

    def loose(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Tell where a kink lies inside."""
        flat = (upper <= self.low) | (lower >= self.high)
        return ~flat & ((lower < self.low) | (upper > self.high))

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return lines through the ends of the interval and the far kink, or the chord where that kink is outside."""
        one, zero = torch.ones_like(lower), torch.zeros_like(lower)
        flat = (upper <= self.low) | (lower >= self.high)
        reach, start = upper.clamp(max=self.high), lower.clamp(min=self.low)  # where the slanted part ends and begins
        # Above: from (lower, f) to the upper kink, which is past every point of the graph; slope 1 if lower is past low.
        rise = (reach - start) / (reach - lower).masked_fill(flat, 1)
        above = torch.where(flat, zero, torch.where(lower >= self.low, one, rise))
        # Starting on the slanted part with the upper kink inside, a constant at the top may leave a smaller area.
        top = (lower >= self.low) & (upper > self.high) & (upper - self.high > self.high - lower)
        above = torch.where(top, zero, above)
        # Below: the mirror image.
        fall = (reach - start) / (upper - start).masked_fill(flat, 1)
        below = torch.where(flat, zero, torch.where(upper <= self.high, one, fall))
        bottom = (upper <= self.high) & (lower < self.low) & (self.low - lower > upper - self.low)
        below = torch.where(bottom, zero, below)
        return Lines(below, self._under(below, lower, upper), above, self._over(above, lower, upper))

    def _gaps(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Return f(z) - slope z at the ends and at the kinks inside, where its extremes lie: (4, B, *S)."""
        low, high = lower.clamp(min=self.low).minimum(upper), upper.clamp(max=self.high).maximum(lower)
        return torch.stack([self.value(z) - slope * z for z in (lower, upper, low, high)])

    def _under(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return self._gaps(slope, lower, upper).amin(0)

    def _over(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return self._gaps(slope, lower, upper).amax(0)

    def band(self, lower: Tensor, upper: Tensor) -> Band:
        """Return the band parallel to the chord."""
        slope, _ = chord(self.value, lower, upper)
        under, over = self._under(slope, lower, upper), self._over(slope, lower, upper)
        return Band(slope, (under + over) / 2, (over - under) / 2)


class Curved(Nonlinear):
    """Smooth increasing maps: convex everywhere, or convex below 0, concave above, and symmetric about (0, f(0)).

    Args:
        name: of the layer.
        function: f.
        derivative: its slope, as a function of z.
        convex: whether f is convex everywhere; otherwise it is S-shaped.
    """

    STEPS = 40
    """Halvings of the interval of the point of contact of a tangent; any stop is sound, a later one is closer."""

    def __init__(
        self, name: str, function: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor], convex: bool
    ) -> None:
        self.name, self.function, self.derivative, self.convex = name, function, derivative, convex

    def value(self, z: Tensor) -> Tensor:
        """Return f(z)."""
        return self.function(z)

    def _tangent(self, at: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.derivative(at)
        return slope, self.value(at) - slope * at

    def lines(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return chords on one side and tangents on the other; tangents through an end where f changes its bend."""
        if self.convex:
            slope, offset = self._tangent((lower + upper) / 2)
            return Lines(slope, offset, *chord(self.value, lower, upper))
        above = self._over(lower, upper)
        slope, offset = self._over(-upper, -lower)
        centre = self.value(torch.zeros_like(lower))
        return Lines(slope, 2 * centre - offset, *above)

    def _over(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return a line above an S-shaped f.

        lower >= 0: the tangent in the middle. upper <= 0: the chord. Else the tangent through (lower, f(lower)), whose
        point of contact is bracketed from the side on which tangents lie above; the chord where that point is past
        upper.
        """
        middle = ((lower + upper) / 2).clamp(min=0)
        near, far = torch.zeros_like(lower), upper.clamp(min=0)

        def clears(at: Tensor) -> Tensor:
            return self.value(at) - self.value(lower) - self.derivative(at) * (at - lower) >= 0

        touches = clears(far) & (upper > 0)
        for _ in range(self.STEPS):
            centre = (near + far) / 2
            good = clears(centre)
            far, near = torch.where(good, centre, far), torch.where(good, near, centre)
        slope, offset = self._tangent(torch.where(lower >= 0, middle, far))
        straight, through = chord(self.value, lower, upper)
        tangent = (lower >= 0) | touches
        return torch.where(tangent, slope, straight), torch.where(tangent, offset, through)

    def band(self, lower: Tensor, upper: Tensor) -> Band:
        """Return the band whose slope is the smallest derivative inside, so that f minus the line increases."""
        slope = torch.minimum(self.derivative(lower), self.derivative(upper))
        under, over = self.value(lower) - slope * lower, self.value(upper) - slope * upper
        return Band(slope, (under + over) / 2, ((over - under) / 2).clamp(min=0))


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Maximum over windows; not a map of single values, so it is treated by itself.

    Args:
        kernel, stride, padding: for rows and columns.
        ceil_mode: as in torch.
        shape: (C, H, W) of the input.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    shape: tuple[int, ...]
    name = "MaxPool2d"

    def value(self, z: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return F.max_pool2d(z, self.kernel, self.stride, self.padding, ceil_mode=self.ceil_mode)

    def windows(self, z: Tensor, outside: float) -> Tensor:
        """Cut (N, C, H, W) into the windows of the pooling: (N, C, kernel, H' W'), ``outside`` where there is padding."""
        rows, columns = self.value(z[:1]).shape[2:]
        (top, left), (height, width) = self.padding, z.shape[2:]
        bottom = (rows - 1) * self.stride[0] + self.kernel[0] - height - top
        right = (columns - 1) * self.stride[1] + self.kernel[1] - width - left
        padded = F.pad(z, (left, max(right, 0), top, max(bottom, 0)), value=outside)
        cut = F.unfold(padded, self.kernel, stride=self.stride).unflatten(1, (z.shape[1], -1))
        grid = cut.unflatten(3, ((padded.shape[2] - self.kernel[0]) // self.stride[0] + 1, -1))
        return grid[..., :rows, :columns].flatten(3)

    def winners(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position of the largest lower bound of each window, and whether no other value can exceed it.

        Returns:
            int64 (B, C, H' W'), positions in the flattened plane; bool of the same shape.
        """
        least = torch.finfo(lower.dtype).min
        best, winner = self.windows(lower, least).max(2)
        rivals = self.windows(upper, least).scatter(2, winner[:, :, None], least).amax(2)
        places = torch.arange(lower[0, 0].numel(), dtype=torch.float64, device=lower.device)
        names = self.windows(places.view(1, 1, *lower.shape[2:]), -1.0).long().expand(*lower.shape[:2], -1, -1)
        return names.gather(2, winner[:, :, None])[:, :, 0], best >= rivals
