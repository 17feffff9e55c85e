"""Gaussian noise scaled to the radius: the floor that every attack must beat."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.guessing import guess
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier


@register(
    "noise_gaussian",
    version=1,
    source="Carlini et al., 2019, arXiv:1902.06705, Sec. 4.12: random noise must be weaker than any attack",
    access="decisions",
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"restarts": 3},
    cost=lambda p: (p["restarts"], 0),
    floor=True,
)
def noise_gaussian(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    restarts: int = 5,
) -> AttackResult:
    """Return the first of several Gaussian points on the sphere that is adversarial, or the last one.

    A Gaussian vector scaled to length epsilon in the norm of the threat model, then projected on the bounds.

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
    return guess(model, x, y, threat, _on_sphere, draws=draws, targets=targets, restarts=restarts)


def _on_sphere(threat: ThreatModel, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    noise = draws.normal(purpose, x)
    length = balls.distance(threat.norm, noise.new_zeros(noise.shape), noise).to(x.dtype)
    scale = (threat.radius(x) / length.clamp(min=1e-30)).reshape(-1, *([1] * (x.dim() - 1)))
    return balls.project(threat, x, x + noise * scale)
