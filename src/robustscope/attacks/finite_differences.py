"""Gradients estimated from scores alone, and the climb along them that SPSA and NES share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.models.classifier import Classifier

VALUES = 2**21
"""Values of the points that are made at once: enough for full batches of pictures, and little memory."""

Directions = Callable[[Draws, str, Tensor], Tensor]


class Stepper(Protocol):
    """How iterates follow from gradients; one row of state for each sample that is still searched."""

    def step(self, current: Tensor, gradient: Tensor) -> Tensor:
        """Return the next iterates, inside the threat set: (b, *S)."""
        ...

    def select(self, keep: Tensor) -> Stepper:
        """Return the state of the samples that ``keep`` picks."""
        ...


@dataclass(frozen=True)
class Estimate:
    """How a gradient is estimated.

    Args:
        samples: rows of one estimate, two for each direction.
        spread: length that one value moves along a direction, in the units of the bounds.
        directions: ``(draws, purpose, like) -> numbers`` shaped as ``like``, symmetric about zero.
    """

    samples: int
    spread: float
    directions: Directions


def per_group(count: int, size: int) -> int:
    """Return how many samples are treated together when each has ``count`` points of ``size`` values."""
    return max(VALUES // max(min(count, block_of(size)) * size, 1), 1)


def block_of(size: int) -> int:
    """Return how many directions are drawn under one key, from the number of values of an input alone."""
    return max(VALUES // max(size, 1), 1)


def gradient(
    model: Classifier, threat: ThreatModel, goal: Goal, current: Tensor, draws: Draws, how: Estimate, purpose: str
) -> Tensor:
    """Estimate the gradient of the loss from pairs of points on opposite sides of ``current`` (b, *S): (b, *S).

    For the difference D of the points of a pair, each value is sum((f+ - f-) D) / sum(D^2) over the pairs: the slope of
    the loss along it by least squares. Points are clipped to the bounds, which shortens D and biases nothing.
    """
    parts = [
        _gradient(model, threat, goal.select(part), current[part], draws.select(part), how, purpose)
        for part in torch.arange(len(current), device=current.device).split(per_group(how.samples, current[0].numel()))
    ]
    return torch.cat(parts)


def _gradient(
    model: Classifier, threat: ThreatModel, goal: Goal, current: Tensor, draws: Draws, how: Estimate, purpose: str
) -> Tensor:
    flat = current.flatten(1)
    batch, size = flat.shape
    total, weight = torch.zeros_like(flat), torch.zeros_like(flat)
    pairs, block = how.samples // 2, block_of(size)
    for start in range(0, pairs, block):
        count = min(block, pairs - start)
        delta = how.directions(draws, f"{purpose}/{start}", flat.new_empty(batch, count, size)).mul_(how.spread)
        above = (flat[:, None] + delta).clamp_(*threat.bounds)
        below = (flat[:, None] - delta).clamp_(*threat.bounds)
        points = torch.cat([above, below], 1).view(-1, *current.shape[1:])
        rows = torch.arange(batch, device=flat.device).repeat_interleave(2 * count)
        values = goal.scores(model.logits(points), rows).view(batch, 2, count)
        apart = torch.sub(above, below, out=above)
        gain = (values[:, 0] - values[:, 1]).to(flat.dtype)
        total += torch.bmm(gain[:, None], apart)[:, 0]
        weight += apart.square_().sum(1)
    return (total / torch.where(weight > 0, weight, torch.ones_like(weight))).view_as(current)


def climb(
    model: Classifier,
    x: Tensor,
    threat: ThreatModel,
    goal: Goal,
    stepper: Stepper,
    draws: Draws,
    how: Estimate,
    queries: int,
) -> AttackResult:
    """Ask about an iterate, estimate the gradient there, step; until it is adversarial or the queries are spent.

    The first iterate is ``x``. Each sample leaves at its first adversarial iterate. The last estimate makes do with the
    rows that are left; one row is always kept for the iterate that follows from it.

    Returns:
        The first adversarial iterate of each sample, or the one of the highest loss.
    """
    x_adv, forward = x.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    rows, current = torch.arange(len(x), device=x.device), x
    best, value, spent, step = x.clone(), None, 0, 0
    while len(rows):
        logits = model.logits(current)
        spent += 1
        forward[rows] += 1
        values = goal.scores(logits, torch.arange(len(rows), device=x.device))
        solved = goal.reached(logits)
        better = solved if value is None else solved | (values > value)
        value = values if value is None else torch.where(better, values, value)
        best = torch.where(columns(better, best), current, best)
        x_adv[rows] = best
        now = Estimate(min(how.samples, queries - spent - 1) // 2 * 2, how.spread, how.directions)
        if now.samples < 2:
            break
        if solved.any():
            keep = (~solved).nonzero()[:, 0]
            rows, current, best, value = rows[keep], current[keep], best[keep], value[keep]
            stepper, goal, threat, draws = (
                stepper.select(keep),
                goal.select(keep),
                threat.select(keep),
                draws.select(keep),
            )
            if not len(rows):
                break
        slope = gradient(model, threat, goal, current, draws, now, f"direction/{step}")
        spent += now.samples
        forward[rows] += now.samples
        current = stepper.step(current, slope)
        step += 1
    return AttackResult(x_adv, forward, torch.zeros_like(forward))
