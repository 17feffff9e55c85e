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
    def of(cls, threat: ThreatModel, x: Tensor) -> Region:
        """Return the region of a threat model around ``x`` (B, *S).

        The radius is widened by what :func:`robustscope.geometry.balls.contains` forgives, so that whatever counts as
        an example of the threat model lies inside.
        """
        radius = threat.radius(x) + balls.slack(threat, x)
        reach = radius.view(-1, *([1] * (x.dim() - 1)))
        low, high = threat.bounds
        return cls(threat.norm, x, radius, (x - reach).clamp(min=low), (x + reach).clamp(max=high))

    def select(self, rows: Tensor) -> Region:
        """Return the region of some samples."""
        return Region(self.norm, self.x[rows], self.radius[rows], self.lower[rows], self.upper[rows])

    def least(self, forms: Tensor) -> Tensor:
        """Return a lower bound of a . z over the region for forms ``a`` (B, R, *S): (B, R).

        linf: the exact minimum. l2, l1: the larger of the minima over the ball and over the box, which is the minimum
        over both together where only one of them binds.
        """
        flat = forms.flatten(2)
        middle, half = (self.lower + self.upper).flatten(1) / 2, (self.upper - self.lower).flatten(1) / 2
        boxed = (flat @ middle[:, :, None] - flat.abs() @ half[:, :, None])[:, :, 0]
        if self.norm == "linf":
            return boxed
        length = torch.linalg.vector_norm(flat, DUAL[self.norm], dim=2)
        round_ = (flat @ self.x.flatten(1)[:, :, None])[:, :, 0] - self.radius[:, None] * length
        return torch.maximum(boxed, round_)
