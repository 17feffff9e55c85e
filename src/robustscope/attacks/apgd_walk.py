"""The walk of Auto-PGD: momentum steps whose size each sample halves for itself, and their sparse twin for l1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.core.resume import tensors
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls

MOMENTUM = 0.75
"""Weight of the new step against the last move, and share of rising steps below which a step size is halved."""


def checkpoints(steps: int) -> list[int]:
    """Return the steps at which step sizes are reconsidered.

    w_j = ceil(p_j * steps), p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), counted in whole
    hundredths: in floating point the third one of 100 steps comes out as 58.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]

    Source: Croce & Hein 2020, arXiv:2003.01690, Sec. 3.1.
    """
    found, at, width = set(), 0, 22
    while at + width <= 100:
        at += width
        found.add(-(-at * steps // 100))
        width = max(width - 3, 6)
    return sorted(found)


def phases(steps: int) -> list[tuple[float, int]]:
    """Return the radius factors of the l1 walk with the steps that each gets: 3, 2, 1 for 30, 30 and 40 percent.

    Example:
        >>> phases(100)
        [(3.0, 30), (2.0, 30), (1.0, 40)]

    Source: Croce & Hein 2021, arXiv:2103.01208, Sec. 4.2.
    """
    wide = -(-3 * steps // 10)
    if steps <= 2 * wide:
        return [(1.0, steps)]
    return [(3.0, wide), (2.0, wide), (1.0, steps - 2 * wide)]


@dataclass
class Walk(ABC):
    """Where the samples still in the batch stand; every field holds one row for each of them.

    Args:
        rows: int64 (B,), their positions in the batch that the walk began with.
        threat: threat set around ``x``.
        goal: loss and labels.
        x: (B, *S), clean inputs.
        point: (B, *S), the iterates.
        previous: (B, *S), the iterates before; momentum follows the difference.
        gradient: (B, *S), at ``point``.
        value: (B,), loss at ``point``.
        best: (B, *S), points of the highest loss so far.
        best_gradient: (B, *S), at ``best``.
        best_value: (B,), loss at ``best``.
        step_size: (B,), in the units of the bounds.
    """

    rows: Tensor
    threat: ThreatModel
    goal: Goal
    x: Tensor
    point: Tensor
    previous: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step_size: Tensor

    def keep(self, index: Tensor) -> None:
        """Forget all samples but those that ``index`` picks."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(self, field.name, value[index] if isinstance(value, Tensor) else value.select(index))

    def state(self) -> dict[str, Tensor]:
        """Return what changes along the way, for :meth:`restore`."""
        return tensors(self, "x", "low", "high")

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go to where a walk from the same start was when it told its state."""
        self.keep(saved["rows"])
        for name, value in saved.items():
            setattr(self, name, value)

    def arrive(self, values: Tensor, gradients: Tensor | None) -> None:
        """Take in loss (B,) and gradient (B, *S) of the iterates; the last ones need no gradient."""
        better = values > self.best_value
        self.best[better] = self.point[better]
        self.best_value = torch.where(better, values, self.best_value)
        if gradients is not None:
            self.best_gradient[better] = gradients[better]
            self.gradient = gradients
        self.value = values

    def go_back(self, rows: Tensor) -> None:
        """Let the samples that ``rows`` (bool) marks walk on from their best point, at rest."""
        shaped = _columns(rows, self.x)
        self.point = torch.where(shaped, self.best, self.point)
        self.previous = torch.where(shaped, self.best, self.previous)
        self.gradient = torch.where(shaped, self.best_gradient, self.gradient)
        self.value = torch.where(rows, self.best_value, self.value)

    @abstractmethod
    def move(self) -> None:
        """Go to the next iterates."""

    @abstractmethod
    def review(self, window: int) -> None:
        """Reconsider the step sizes after ``window`` steps."""


@dataclass
class HalvingWalk(Walk):
    """The walk in linf and l2: with momentum, halving its steps where the loss has stopped rising.

    Args:
        rises: int64 (B,), steps since the last review that raised the loss.
        halved: bool (B,), whether the last review halved the step size.
        reviewed_value: (B,), highest loss at the last review.
        low: (B, *S), lowest values of an linf threat set; None in l2.
        high: (B, *S), its highest values.
    """

    rises: Tensor
    halved: Tensor
    reviewed_value: Tensor
    low: Tensor | None
    high: Tensor | None

    def arrive(self, values: Tensor, gradients: Tensor | None) -> None:
        """As :meth:`Walk.arrive`, and count the steps that raised the loss."""
        self.rises += values > self.value
        super().arrive(values, gradients)

    def _project(self, z: Tensor) -> Tensor:
        if self.low is not None:
            return z.clamp_(self.low, self.high)
        return balls.project(self.threat, self.x, z)

    def move(self) -> None:
        """Go to P(x + a (z - x) + (1 - a) (x - previous)), where z is the projected steepest step."""
        size = _columns(self.step_size, self.x)
        stepped = self._project(torch.addcmul(self.point, balls.steepest(self.threat.norm, self.gradient), size))
        ahead = self.point + MOMENTUM * (stepped - self.point) + (1 - MOMENTUM) * (self.point - self.previous)
        self.previous, self.point = self.point, self._project(ahead)

    def review(self, window: int) -> None:
        """Halve and go back where too few steps rose, or where an unchanged step size brought nothing new."""
        few = self.rises < MOMENTUM * window
        stuck = ~self.halved & (self.best_value <= self.reviewed_value)
        self.halved = few | stuck
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.go_back(self.halved)
        self.reviewed_value = self.best_value.clone()
        self.rises = torch.zeros_like(self.rises)


@dataclass
class SparseWalk(Walk):
    """The walk in l1: no momentum, steps along the steepest values, whose share follows the best point's sparsity.

    Args:
        full_step: (B,), the step size that a sample begins with and returns to.
        share: (B,), share of the values that a step moves.
        support: (B,), values that differed from ``x`` in the best point at the last review.
    """

    full_step: Tensor
    share: Tensor
    support: Tensor

    def move(self) -> None:
        """One steepest step on the chosen share of the values that can still move, projected."""
        lower, upper = self.threat.bounds
        movable = torch.where(self.gradient > 0, self.point < upper, self.point > lower)
        count = self.x[0].numel() - ((1 - self.share) * self.x[0].numel()).floor()
        step = sparse_steepest(self.gradient, movable, count) * _columns(self.step_size, self.x)
        self.previous, self.point = self.point, balls.project(self.threat, self.x, self.point + step)

    def review(self, window: int) -> None:
        """Where the best point got sparser, go back to it with the full step; elsewhere shorten the step."""
        support = differing(self.best, self.x)
        sparser = support < 0.95 * self.support
        shorter = torch.maximum(self.step_size / 1.5, self.full_step / 10)
        self.step_size = torch.where(sparser, self.full_step, shorter)
        self.share, self.support = support / max(self.x[0].numel(), 1) / 1.5, support
        self.go_back(sparser)


def _columns(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over (B, *S)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def differing(a: Tensor, b: Tensor) -> Tensor:
    """Return how many values of each row differ, (B,), in the dtype of ``a``."""
    return (a != b).flatten(1).sum(1).to(a.dtype)


def sparse_steepest(gradient: Tensor, movable: Tensor, count: Tensor) -> Tensor:
    """Return the signs of the ``count`` (B,) largest movable values, scaled to l1 length 1; ties all move.

    Zero gradients give zero; at least one value moves.
    """
    size = gradient.flatten(1).abs() * movable.flatten(1)
    place = (count.long() - 1).clamp_(0, size.shape[1] - 1)
    threshold = size.sort(dim=1, descending=True).values.gather(1, place[:, None])
    step = ((size >= threshold) & (size > 0)) * gradient.flatten(1).sign()
    return (step / step.abs().sum(1, keepdim=True).clamp_(min=1)).view_as(gradient)


def begin(threat: ThreatModel, x: Tensor, goal: Goal, start: Tensor) -> Walk:
    """Return the walk of a norm at ``start`` (B, *S), before its loss is known."""
    batch, radius = len(x), threat.radius(x)
    # Infinite values: the first iterate is no rise over anything, and is the best so far.
    common = (
        torch.arange(batch, device=x.device),
        threat,
        goal,
        x,
        start,
        start,
        torch.zeros_like(x),
        x.new_full((batch,), torch.inf),
        start.clone(),
        torch.zeros_like(x),
        x.new_full((batch,), -torch.inf),
    )
    if threat.norm == "l1":
        support = differing(start, x)
        share = support / max(x[0].numel(), 1) / 1.5 if batch else support
        return SparseWalk(*common, radius, radius.clone(), share, support)
    low, high = balls.corners(threat, x) if threat.norm == "linf" else (None, None)
    rises = torch.zeros(batch, dtype=torch.int64, device=x.device)
    return HalvingWalk(
        *common,
        2 * radius,
        rises,
        torch.ones_like(rises, dtype=torch.bool),
        x.new_full((batch,), -torch.inf),
        low,
        high,
    )
