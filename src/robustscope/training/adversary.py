"""The inner maximisation of adversarial training: steepest steps inside the threat set, on a network in training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustscope.core.draws import Draws
from robustscope.core.types import Bounds, ThreatModel
from robustscope.geometry import balls
from robustscope.training.network import Losses, Mode, Network


def ascend(
    network: Network,
    x: Tensor,
    threat: ThreatModel,
    losses: Losses,
    start: Tensor,
    *,
    steps: int,
    relative_step_size: float,
    least_step: float = 0.0,
    mode: Mode = "eval",
    mask: Tensor | None = None,
) -> Tensor:
    """Return the last point of steepest ascent, projected on the threat set after each step: (B, *S), no graph.

    x_{t+1} = P(x_t + a * epsilon * s(gradient)), as the attack ``pgd``; but every sample takes every step, for training
    wants the end of the path rather than the first success.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        threat: norm, radius (of each sample, or one for all), bounds.
        losses: logits (B, K) -> (B,), what is to grow.
        start: (B, *S), a point of the threat set.
        steps: >= 0; 0 returns the start.
        relative_step_size: step size as a fraction of epsilon.
        least_step: shortest step, in the units of the bounds, for samples whose radius is small.
        mode: mode of the network meanwhile. In "train" each step moves the running statistics of batch norm, as in the
            published code of Madry, FREE and FAST; TRADES attacks in "eval".
        mask: (B, *S) or what broadcasts to it, for a network that is shown ``mask * point``; None shows it all.

    Source: Madry et al. 2018, arXiv:1706.06083, Sec. 2.1.
    """
    size = _step_size(threat, x, relative_step_size, least_step)
    box = balls.corners(threat, x) if threat.norm == "linf" else None
    point = start.detach()
    with network.mode(mode):
        for _ in range(steps):
            _, gradient, _ = network.input_gradient(losses, point if mask is None else mask * point)
            gradient = gradient if mask is None else mask * gradient
            with torch.no_grad():
                moved = torch.addcmul(point, size, balls.steepest(threat.norm, gradient))
                point = balls.project(threat, x, moved) if box is None else torch.clamp(moved, *box, out=moved)
    return point


def climb(threat: ThreatModel, x: Tensor, point: Tensor, gradient: Tensor, relative_step_size: float) -> Tensor:
    """Return the point after one steepest step, projected on the threat set: (B, *S), no graph; see :func:`ascend`."""
    with torch.no_grad():
        size = _step_size(threat, x, relative_step_size)
        return balls.project(threat, x, torch.addcmul(point, size, balls.steepest(threat.norm, gradient)))


def _step_size(threat: ThreatModel, x: Tensor, relative: float, least: float = 0.0) -> Tensor:
    """Return the step of each sample so that it broadcasts over (B, *S)."""
    return (relative * threat.radius(x)).clamp(min=least).reshape(-1, *([1] * (x.dim() - 1)))


def random_point(x: Tensor, threat: ThreatModel, draws: Draws, purpose: str, *, inside_bounds: bool = True) -> Tensor:
    """Return a uniform point of the ball around each sample: (B, *S).

    Args:
        x: (B, *S), clean inputs.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        purpose: keeps different uses apart.
        inside_bounds: project it on the bounds too.
    """
    with torch.no_grad():
        if not inside_bounds:
            low, high = threat.bounds
            radii = threat.epsilon if isinstance(threat.epsilon, tuple) else (threat.epsilon,)
            reach = max(radii, default=0.0) + high - low
            threat = replace(threat, bounds=Bounds(low - reach, high + reach))
        return balls.sample(threat, x, draws, purpose)


def near_point(x: Tensor, threat: ThreatModel, draws: Draws, purpose: str, deviation: float = 1e-3) -> Tensor:
    """Return a point of the threat set next to each sample, x + deviation * N(0, I): (B, *S).

    Where TRADES and MART start: at the sample itself a divergence from its own prediction has no gradient.
    """
    with torch.no_grad():
        return balls.project(threat, x, x + deviation * draws.normal(purpose, x))


def divergence(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """Return KL(p || p_adv) of two predictions given by logits (B, K): (B,), differentiable in both."""
    return F.kl_div(logits_adv.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True).sum(1)
