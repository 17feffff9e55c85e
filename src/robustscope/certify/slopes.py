"""Slopes of the lines below open ReLUs, chosen anew for every form by gradient ascent on its bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustscope.certify.relaxations import Lines

DECAY = 0.98
"""What the step size is multiplied by after each step."""


class Slopes:
    """Slopes of some samples, one set for each form, and what Adam remembers of them.

    Args:
        lines: of the nonlinear nodes that the forms go back through.
        forms: for each sample.
    """

    def __init__(self, lines: Mapping[int, Lines], forms: int) -> None:
        free = {n: line for n, line in lines.items() if line.free is not None and bool(line.free.any())}
        self.values = {
            number: line.lower_slope[:, None].expand(-1, forms, *line.lower_slope.shape[1:]).contiguous()
            for number, line in free.items()
        }
        self.least = {number: line.least for number, line in free.items()}
        self.moments = {n: (torch.zeros_like(value), torch.zeros_like(value)) for n, value in self.values.items()}
        self.taken = 0

    def ascend(self, bound: Callable[[Mapping[int, Tensor]], Tensor], step_size: float) -> Tensor:
        """Take one step of Adam, projected on the slopes that are sound; return the bounds (B, R) before it.

        Args:
            bound: of all forms for given slopes: (B, R).
            step_size: of the first step.
        """
        leaves = {number: value.requires_grad_(True) for number, value in self.values.items()}
        with torch.enable_grad():
            found = bound(leaves)
            gradients = torch.autograd.grad(found.sum(), list(leaves.values()))
        size, self.taken = step_size * DECAY**self.taken, self.taken + 1
        for (number, value), gradient in zip(leaves.items(), gradients, strict=True):
            one, two = self.moments[number]
            one.lerp_(gradient, 0.1)
            two.lerp_(gradient.square(), 0.001)
            ascent = (one / (1 - 0.9**self.taken)) / ((two / (1 - 0.999**self.taken)).sqrt() + 1e-8)
            self.values[number] = (value.detach() + size * ascent).clamp_(self.least[number], 1)
        return found.detach()

    def keep(self, rows: Tensor) -> None:
        """Forget all samples but some."""
        self.values = {number: value[rows] for number, value in self.values.items()}
        self.moments = {number: (one[rows], two[rows]) for number, (one, two) in self.moments.items()}
