"""From a far example of another class to the near ones, along the boundary: a way in where nothing moves around x."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.decision_search import picture
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin, margin_loss
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

FIRST, LONGEST, SHORTEST = 0.2, 0.3, 1e-3
"""Share of the distance that a step cuts off: the first one, the most, and where the walk ends."""

ALONG = 16.0
"""Length of the move along the gradient, in units of what is cut off."""

PICTURES = 40
"""Random pictures looked at for a point of a class from which nobody came yet."""


@dataclass(frozen=True)
class Approach:
    """Where the walk ended; one row for each sample.

    Args:
        x_adv: (B, *S), the nearest adversarial point, projected on the threat set where it lies outside.
        solved: bool (B,), whether it lies inside.
        distance: float64 (B,), of the nearest adversarial point.
        alive: bool (B,), whether a gradient on the way was not zero.
        lowest: (B,), margin of ``x_adv``.
        forward, backward: int64 (B,), rows spent.
    """

    x_adv: Tensor
    solved: Tensor
    distance: Tensor
    alive: Tensor
    lowest: Tensor
    forward: Tensor
    backward: Tensor


def approach(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, far: Tensor, steps: int) -> Approach:
    """Walk from ``far`` towards ``x`` on the adversarial side, by steps that are taken back where they leave it.

    Each step moves along the gradient of the margin at the last adversarial point and projects on a ball around ``x``
    that is smaller by a share; the share grows with each success and is halved by each failure. Scores that are
    saturated or cut off around ``x`` still move at the boundary, where two classes are alike.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: linf, l2 or l1; radius and bounds.
        far: (B, *S), points inside the bounds; rows whose point is not adversarial stay there.
        steps: number of steps.
    """
    rows = torch.arange(len(x), device=x.device)
    nearest, inner = far.clone(), threat.radius(x)
    length = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    forward, alive = torch.zeros_like(rows), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    share, slopes, point = inner.new_full((len(x),), FIRST), torch.zeros_like(x), far
    for _ in range(steps):
        labels = y[rows]
        _, gradient, logits = model.gradient(lambda z, part, labels=labels: margin_loss(z, labels[part]), point)
        forward[rows] += 1
        away = balls.distance(threat.norm, x[rows], point)
        better = is_adversarial(logits, labels) & (away < length[rows])
        taken = rows[better]
        nearest[taken], slopes[taken], length[taken] = point[better], gradient[better], away[better]
        alive[rows] |= (gradient != 0).flatten(1).any(1)
        share[rows] = torch.where(better, (1.5 * share[rows]).clamp(max=LONGEST), share[rows] / 2)
        rows = rows[(length[rows] > inner[rows]) & length[rows].isfinite() & (share[rows] > SHORTEST)]
        if not len(rows):
            break
        size = length[rows].to(x.dtype)
        moved = nearest[rows] + columns(ALONG * share[rows] * size, x[rows]) * balls.steepest(
            "linf" if threat.norm == "linf" else "l2", slopes[rows]
        )
        radius = torch.maximum((1 - share[rows]) * size, inner[rows])
        point = balls.project_within(threat.norm, threat.bounds, radius, x[rows], moved)
    x_adv = torch.where(columns(length <= inner, x), nearest, balls.project(threat, x, nearest))
    logits = model.logits(x_adv)
    return Approach(x_adv, is_adversarial(logits, y), length, alive, margin(logits, y), forward + 1, forward)


def scout(
    model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Look among random pictures, and half-way to them, for a point of another class, if possible one not ``seen`` yet.

    Random pictures fall to few classes, and a walk mostly ends in the class where it began; the nearest class may be none
    of those.

    Args:
        model: classifier under attack; only its decisions are used.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: of which only the bounds matter.
        draws: random numbers of these samples.
        seen: bool (B, K), classes to pass by; what is found is added in place.

    Returns:
        The points (B, *S), of the first class not seen, or else the last point of another class, or ``x``; and the rows
        spent, int64 (B,).
    """
    far, spent = x.clone(), torch.zeros_like(y)
    rows = torch.arange(len(x), device=x.device)
    for k in range(PICTURES):
        points = picture(x[rows], threat.bounds, draws.select(rows), k // 2)
        points = (x[rows] + points) / 2 if k % 2 else points
        chosen = model.logits(points).argmax(1)
        spent[rows] += 1
        other = chosen != y[rows]
        far[rows[other]] = points[other]
        fresh = other & ~seen[rows, chosen]
        seen[rows[fresh], chosen[fresh]] = True
        rows = rows[~fresh]
        if not len(rows):
            break
    return far, spent
