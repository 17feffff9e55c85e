"""The search for the weight of the loss against the distance, for each sample on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 1e10


@dataclass
class ConstantSearch:
    """Bisection for the smallest constant c that still succeeds, as Carlini and Wagner do it.

    After a success c is halved towards the largest failure, after a failure it grows tenfold until a first success
    is known and is then bisected. Every tensor has shape (b,).

    Args:
        constant: weights in use.
        low: largest constants that failed.
        high: smallest constants that succeeded, ``LARGEST`` before the first.
        number: int64, which step of the search each sample is in.
        steps: steps in all.
    """

    constant: Tensor
    low: Tensor
    high: Tensor
    number: Tensor
    steps: int

    @classmethod
    def begin(cls, like: Tensor, initial: float, steps: int) -> ConstantSearch:
        """Start the search for each sample of ``like`` (b, *S)."""
        zero = like.new_zeros(len(like))
        number = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return cls(zero + initial, zero, zero + LARGEST, number, steps)

    def advance(self, ended: Tensor, succeeded: Tensor) -> Tensor:
        """Move the samples ``ended`` to their next constant; return which of them are through: bool (b,).

        A search of ten steps or more spends its last one on the smallest constant that succeeded, as the authors do.
        """
        won, lost = ended & succeeded, ended & ~succeeded
        self.high = torch.where(won, torch.minimum(self.high, self.constant), self.high)
        self.low = torch.where(lost, torch.maximum(self.low, self.constant), self.low)
        known = self.high < 0.1 * LARGEST
        following = torch.where(known, (self.low + self.high) / 2, self.constant * 10)
        self.number = self.number + ended
        if self.steps >= 10:
            following = torch.where((self.number == self.steps - 1) & known, self.high, following)
        self.constant = torch.where(ended, following, self.constant)
        return self.number >= self.steps

    def select(self, keep: Tensor) -> ConstantSearch:
        """Return the search of the samples that ``keep`` picks."""
        parts = (self.constant[keep], self.low[keep], self.high[keep], self.number[keep])
        return ConstantSearch(*parts, self.steps)
