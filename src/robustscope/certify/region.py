"""The inputs that a threat model allows, and the least value of a linear form over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.core.types import Norm, ThreatModel
from robustscope.geometry import balls

DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""The order of the norm dual to each norm."""

PRICES = 12
"""Steps towards the best price in l2; it takes as many as there are distinct sets of values at their room."""


@dataclass(frozen=True, eq=False)
class Region:
    """The ball around each sample inside the bounds.

    Args:
        norm: "linf", "l2" or "l1".
        x: (B, *S), centres.
        radius: (B,).
        lower, upper: (B, *S), the smallest box around ball and bounds.
    """

    norm: Norm
    x: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, threat: ThreatModel, x: Tensor, dtype: torch.dtype | None = None) -> Region:
        """Return the region of a threat model around ``x`` (B, *S), in its dtype or another, which must be wider.

        The radius is widened by what :func:`robustscope.geometry.balls.contains` forgives, so that whatever counts as
        an example of the threat model lies inside.
        """
        radius = threat.radius(x).to(dtype or x.dtype) + balls.slack(threat, x)
        x = x.to(radius)
        reach = radius.view(-1, *([1] * (x.dim() - 1)))
        low, high = threat.bounds
        return cls(threat.norm, x, radius, (x - reach).clamp(min=low), (x + reach).clamp(max=high))

    def select(self, rows: Tensor) -> Region:
        """Return the region of some samples."""
        return Region(self.norm, self.x[rows], self.radius[rows], self.lower[rows], self.upper[rows])

    def least(self, forms: Tensor, close: bool = False) -> Tensor:
        """Return a lower bound of a . z over the region for forms ``a`` (B, R, *S): (B, R).

        linf: the exact minimum. l2, l1: the larger of the minima over the ball and over the box; with ``close`` the
        minimum over both together, for a few more passes over the forms.
        """
        flat = forms.flatten(2)
        middle, half = (self.lower + self.upper).flatten(1) / 2, (self.upper - self.lower).flatten(1) / 2
        boxed = (flat @ middle[:, :, None] - flat.abs() @ half[:, :, None])[:, :, 0]
        if self.norm == "linf":
            return boxed
        length = torch.linalg.vector_norm(flat, DUAL[self.norm], dim=2)
        centre = (flat @ self.x.flatten(1)[:, :, None])[:, :, 0]
        found = torch.maximum(boxed, centre - self.radius[:, None] * length)
        return torch.maximum(found, centre - self._gain(flat)) if close else found

    def _gain(self, flat: Tensor) -> Tensor:
        """Return an upper bound of how far forms (B, R, d) can fall below their value at the centre: (B, R).

        The most of sum s t with s = |a|, 0 <= t <= room and |t| <= radius is at most, for every price q >= 0 of the
        length: sum of the most of s t - q t^2 / 2 over each t alone, plus q radius^2 / 2 (l2); of s t - q t, plus
        q radius (l1). Any price is sound; the one sought makes the bound exact.
        """
        size, radius = flat.abs(), self.radius[:, None, None]
        down, up = (self.x - self.lower).flatten(1), (self.upper - self.x).flatten(1)
        room = torch.where(flat > 0, down[:, None], up[:, None])
        if self.norm == "l1":
            sizes, order = size.sort(dim=2, descending=True)
            enough = room.gather(2, order).cumsum(2) >= radius
            first = enough.to(torch.int8).argmax(2, keepdim=True)
            price = sizes.gather(2, first) * enough.any(2, keepdim=True)
            return ((size - price).clamp_(min=0) * room).sum(2) + (price * radius)[:, :, 0]
        tiny = torch.finfo(flat.dtype).tiny ** 0.5
        price = (torch.linalg.vector_norm(size, dim=2, keepdim=True) / radius).clamp(min=tiny)
        for _ in range(PRICES):  # from above: each finds more values that their room stops
            full = size >= price * room
            rest = radius.square() - (room.square() * full).sum(2, keepdim=True)
            free = (size.square() * ~full).sum(2, keepdim=True)
            price = torch.where(rest > 0, (free / rest.clamp(min=tiny)).sqrt(), price).clamp(min=tiny)
        step = torch.minimum(size / price, room)
        return (size * step - price / 2 * step.square()).sum(2) + (price / 2 * radius.square())[:, :, 0]
