"""Try random points one after another and keep the first that is adversarial."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier

Sampler = Callable[[ThreatModel, Tensor, Draws, str], Tensor]


def guess(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    sampler: Sampler,
    *,
    draws: Draws,
    targets: Tensor | None,
    restarts: int,
) -> AttackResult:
    """Return for each sample the first of ``restarts`` random points that is adversarial, or the last one.

    Args:
        model: classifier; only its decisions are used.
        x: (B, *S).
        y: int64 (B,).
        threat: norm, radius, bounds.
        sampler: ``(threat, x, draws, purpose) -> (B, *S)``, points of the threat set.
        draws: random numbers of these samples; the purpose names the point, so more points contain fewer.
        targets: int64 (B,) or None.
        restarts: points tried, >= 1.
    """
    check_positive(restarts=restarts)
    x_adv = x.clone()
    forward = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        if not len(rows):
            break
        points = sampler(threat.select(rows), x[rows], draws.select(rows), f"point/{restart}")
        goals = None if targets is None else targets[rows]
        found = is_adversarial(model.logits(points), y[rows], goals)
        x_adv[rows] = points
        forward[rows] += 1
        rows = rows[~found]
    return AttackResult(x_adv, forward, torch.zeros_like(forward))
