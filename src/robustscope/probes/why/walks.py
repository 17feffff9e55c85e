"""Walks that probes take: up a score inside the threat set, and to the nearest error. They judge no robustness.

Probes and attacks live on one floor and import nothing of each other, so probes walk by themselves, with the same geometry.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls, planes
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier, Scores

SPARSE = 0.01
"""Share of the input values that a step in l1 moves."""
OVERSHOOT = 1.02
"""How much further than to the linearised boundary a step goes."""


def check_walk(steps: int, relative_step_size: float, restarts: int = 1) -> None:
    """Refuse a walk without steps.

    Raises:
        InvalidValue: for counts below 1 and step sizes of 0 or less.
    """
    if steps < 1 or restarts < 1 or not relative_step_size > 0:
        raise InvalidValue(
            f"steps={steps}, relative_step_size={relative_step_size} and restarts={restarts} were given",
            "steps >= 1, restarts >= 1 and a step size > 0 are allowed",
            "Leave them out for the defaults.",
        )


def ascend(
    model: Classifier,
    x: Tensor,
    threat: ThreatModel,
    score: Scores,
    *,
    draws: Draws,
    steps: int,
    relative_step_size: float,
    restarts: int = 1,
    worth: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Ascend a score by projected steepest steps from random points of the threat set; keep the best point of all.

    Args:
        model: the classifier.
        x: (B, *S), centres.
        threat: linf, l2 or l1.
        score: ``(logits (b, K), rows (b,)) -> (b,)``, what is ascended.
        draws: random numbers of these samples.
        steps: gradients of each restart.
        relative_step_size: step size as a fraction of epsilon.
        restarts: random starts.
        worth: ``(points (B, *S), scores (B,)) -> (B,)``, what is best; None takes the score itself.

    Returns:
        The largest worth of each sample (B,) and where it was found (B, *S).
    """
    size = (threat.radius(x) * relative_step_size).reshape(-1, *([1] * (x.dim() - 1)))
    lower, upper = threat.bounds
    count = max(1, round(SPARSE * x[0].numel())) if len(x) else 1
    best, where = x.new_full((len(x),), -torch.inf), x
    for restart in range(restarts):
        point = balls.sample(threat, x, draws, f"start/{restart}")
        for step in range(steps + 1):
            if step < steps:
                value, gradient, _ = model.gradient(score, point)
            else:
                value = score(model.logits(point), torch.arange(len(x), device=x.device))
            value = value if worth is None else worth(point, value)
            better = value > best
            best, where = torch.where(better, value, best), _pick(better, point, where)
            if step < steps:
                movable = torch.where(gradient > 0, point < upper, point > lower)
                way = balls.steepest(threat.norm, gradient, movable, count)
                point = balls.project(threat, x, point + size * way)
    return best, where


def _pick(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *([1] * (one.dim() - 1))), one, other)


def nearest_error(model: Classifier, x: Tensor, y: Tensor, *, steps: int, rivals: int, halvings: int = 10) -> Tensor:
    """Return the l2 distance to the nearest error that steps to linearised boundaries find: (B,).

    Each step goes to the nearest of the linearised boundaries inside the bounds; then the way back to ``x`` is halved.
    It is an upper bound of the distance, exact for linear models up to the halving; 0 where ``x`` is an error, NaN where
    none was found.

    Args:
        model: the classifier.
        x: (B, *S).
        y: int64 (B,), true classes.
        steps: most steps.
        rivals: other classes that are looked at, those with the largest logits at ``x``.
        halvings: of the way, at the end.

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, arXiv:1511.04599, Algorithm 2.
    """
    logits = model.logits(x)
    found = x.new_full((len(x),), torch.nan)
    others = logits.scatter(1, y[:, None], -torch.inf).topk(min(rivals, logits.shape[1] - 1), dim=1).indices
    wrong = is_adversarial(logits, y)
    found[wrong] = 0.0
    rows, point = (~wrong).nonzero()[:, 0], x[~wrong]
    errors = x.clone()
    for _ in range(steps):
        if not len(rows):
            break
        point = _step(model, x[rows], y[rows], others[rows], point)
        gone = is_adversarial(model.logits(point), y[rows])
        errors[rows[gone]] = point[gone]
        found[rows[gone]] = 1.0
        rows, point = rows[~gone], point[~gone]
    reached = (found == 1.0).nonzero()[:, 0]
    if len(reached):
        start, end = x[reached], errors[reached]

        def between(share: Tensor) -> Tensor:
            return torch.lerp(start, end, share.reshape(-1, *([1] * (x.dim() - 1))))

        share = halve(model, y[reached], between, x.new_zeros(len(reached)), x.new_ones(len(reached)), halvings)
        found[reached] = balls.distance("l2", start, between(share)).to(x.dtype)
    return found


def _step(model: Classifier, x: Tensor, y: Tensor, others: Tensor, point: Tensor) -> Tensor:
    """Return the points a little behind the nearest linearised boundary."""

    def ahead(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.gather(1, others[rows]) - logits.gather(1, y[rows, None])

    values, normals, _ = model.jacobian(ahead, point)
    _, step = planes.nearest("l2", model.bounds, point, normals, (-values).clamp(min=0))
    return (x + OVERSHOOT * (point + step - x)).clamp(*model.bounds)


def halve(
    model: Classifier, y: Tensor, at: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, halvings: int
) -> Tensor:
    """Return how far along a way there is an error, as little as halving finds: (B,), from ``low`` to ``high``.

    Args:
        model: the classifier.
        y: int64 (B,), true classes.
        at: shares of the way (B,) -> inputs (B, *S).
        low: (B,), where there is no error.
        high: (B,), where there is one.
        halvings: >= 0.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        wrong = is_adversarial(model.logits(at(middle)), y)
        high, low = torch.where(wrong, middle, high), torch.where(wrong, low, middle)
    return high
