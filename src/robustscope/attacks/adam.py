"""Adam for a batch in which every sample has a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.search import columns

FADE, FADE_SQUARE, TINY = 0.9, 0.999, 1e-8


@dataclass
class Adam:
    """First and second moments of each sample's gradients; a sample can begin anew while the others go on.

    Args:
        mean: (b, *S), fading mean of the gradients.
        square: (b, *S), fading mean of their squares.
        clock: (b,), steps taken since the sample began, in the dtype of the moments.

    Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.
    """

    mean: Tensor
    square: Tensor
    clock: Tensor

    @classmethod
    def begin(cls, like: Tensor) -> Adam:
        """Start with no moments for each sample of ``like`` (b, *S)."""
        return cls(torch.zeros_like(like), torch.zeros_like(like), like.new_zeros(len(like)))

    def step(self, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Return what is to be subtracted: (b, *S). ``step_size`` is one number, or one for each sample (b,)."""
        self.clock += 1
        self.mean.lerp_(gradient, 1 - FADE)
        self.square.mul_(FADE_SQUARE).addcmul_(gradient, gradient, value=1 - FADE_SQUARE)
        size = step_size / (1 - FADE**self.clock)
        correction = (1 - FADE_SQUARE**self.clock).sqrt()
        root = self.square.sqrt().div_(columns(correction, gradient)).add_(TINY)
        return torch.div(self.mean, root, out=root).mul_(columns(size, gradient))

    def reset(self, rows: Tensor) -> None:
        """Forget the moments of the samples that ``rows`` (bool (b,)) marks."""
        self.mean[rows], self.square[rows], self.clock[rows] = 0, 0, 0

    def select(self, keep: Tensor) -> Adam:
        """Return the state of the samples that ``keep`` picks."""
        return Adam(self.mean[keep], self.square[keep], self.clock[keep])
