"""Uniform noise in the ball: the floor that every attack must beat."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.guessing import guess
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier


@register(
    "noise_uniform",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.12: random noise must be weaker than any attack",
    access="decisions",
    norms=("linf", "l2", "l1", "l0"),
    threats=("patch",),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"restarts": 3},
    cost=lambda p: (p["restarts"], 0),
    floor=True,
)
def noise_uniform(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    restarts: int = 5,
) -> AttackResult:
    """Return the first of several uniform points of the ball that is adversarial, or the last one.

    Uniform in the ball of the norm, then projected on the bounds (l0: floor(epsilon) random values redrawn; patch: a
    rectangle at a random place, redrawn).

    Args:
        model: classifier; only its decisions are used.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        restarts: points tried for each sample, >= 1.

    Returns:
        One point for each sample; a forward row for each point tried, no backward row.

    Raises:
        InvalidValue: for fewer than one restart.

    Source: Carlini et al. 2019, arXiv:1902.06705, Sec. 4.12.
    """
    return guess(model, x, y, threat, balls.sample, draws=draws, targets=targets, restarts=restarts)
