"""A short targeted descent of the margin: what the ladder climbs with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.estimates import Estimate
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

MOMENTUM = 0.25
"""Weight of the last move against the new step."""

FINAL_STEP = 0.02
"""Size of the last step as a share of epsilon; the first is larger, and they shrink evenly."""


Leave = Callable[[int, Tensor, Tensor], Tensor]
"""Tells after a step which of the samples ``rows`` give up, bool (b,), from the smallest margins that they met, (b,)."""


@dataclass(frozen=True)
class Descent:
    """Where a descent ended; one row for each sample.

    Args:
        x_adv: (B, *S), the first adversarial iterate, or the one of the smallest margin.
        solved: bool (B,), whether ``x_adv`` is adversarial.
        lowest: (B,), smallest margin met.
        moved: (B,), by how much the last quarter of the steps still lowered the smallest margin; 0 where it gave up.
        forward: int64 (B,), rows sent forward.
        backward: int64 (B,), rows sent backward.
    """

    x_adv: Tensor
    solved: Tensor
    lowest: Tensor
    moved: Tensor
    forward: Tensor
    backward: Tensor


def difference(logits: Tensor, y: Tensor, targets: Tensor) -> Tensor:
    """Return Z_t - Z_y for each sample: (B, K), (B,), (B,) -> (B,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def descend(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    targets: Tensor,
    threat: ThreatModel,
    start: Tensor,
    steps: int,
    estimate: Estimate | None = None,
    longest: float = 1.0,
    leave: Leave | None = None,
) -> Descent:
    """Ascend Z_t - Z_y with momentum and evenly shrinking steps; a sample leaves at its first adversarial iterate.

    linf and l2 take steepest steps and project. l1 moves a shrinking part of the way to the furthest point along the
    gradient (Frank and Wolfe), which keeps its iterates sparse.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes; any other class is a success.
        targets: int64 (B,), classes to go towards.
        threat: linf, l2 or l1; radius and bounds.
        start: (B, *S), first iterates, inside the threat set.
        steps: number of steps; one more forward pass judges the last iterate.
        estimate: what to take in place of the model's own gradient; None takes that.
        longest: size of the first step as a share of epsilon.
        leave: asked after each step which samples give up; None for none.
    """
    rows = torch.arange(len(x), device=x.device)
    x_adv, solved = start.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    lowest, earlier = (x.new_full((len(x),), torch.inf) for _ in range(2))
    forward, backward = (torch.zeros_like(rows) for _ in range(2))
    point, previous = start, start
    for step in range(steps + 1):
        if not len(rows):
            break
        if step == steps:
            logits = model.logits(point)
        elif estimate is not None:
            logits, gradient = estimate.at(model, threat, rows, point, y, targets, f"{step}")
            forward[rows] += estimate.rows
        else:
            labels, goals = y[rows], targets[rows]
            # The loop's variables are bound as defaults: the closure is called before the next turn.
            _, gradient, logits = model.gradient(
                lambda z, part, labels=labels, goals=goals: difference(z, labels[part], goals[part]), point
            )
            backward[rows] += 1
        forward[rows] += 1
        value = margin(logits, y[rows])
        reached = is_adversarial(logits, y[rows])
        better = reached | (value < lowest[rows])
        x_adv[rows[better]] = point[better]
        lowest[rows] = torch.minimum(lowest[rows], value)
        solved[rows[reached]] = True
        if step == steps - max(steps // 4, 1):
            earlier[rows] = lowest[rows]
        if step == steps:
            break
        if leave is not None:
            given_up = leave(step, rows, lowest[rows])
            earlier[rows[given_up]] = lowest[rows[given_up]]
            reached = reached | given_up
        keep = (~reached).nonzero()[:, 0]
        rows, point, previous, gradient = rows[keep], point[keep], previous[keep], gradient[keep]
        share = longest * (1 - step / steps) + FINAL_STEP
        point, previous = move(threat.select(rows), x[rows], point, previous, gradient, share), point
    return Descent(x_adv, solved, lowest, earlier - lowest, forward, backward)


def move(threat: ThreatModel, x: Tensor, point: Tensor, previous: Tensor, gradient: Tensor, share: float) -> Tensor:
    """Return the next iterates (B, *S): a step of ``share`` of the radius along the gradient, with momentum, projected."""
    if threat.norm == "l1":
        return point + min(share, 1.0) * (balls.furthest(threat, x, gradient) - point)
    size = (share * threat.radius(x)).view(-1, *([1] * (x.dim() - 1)))
    step = balls.project(threat, x, point + size * balls.steepest(threat.norm, gradient))
    return balls.project(threat, x, step + MOMENTUM * (point - step + point - previous))
