"""The momentum iterative method, also called MI-FGSM."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{dong2018boosting,
  title = {Boosting Adversarial Attacks with Momentum},
  author = {Dong, Yinpeng and Liao, Fangzhou and Pang, Tianyu and Su, Hang and Zhu, Jun
            and Hu, Xiaolin and Li, Jianguo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}"""


@register(
    "mim",
    version=1,
    source="Dong et al., 2018, arXiv:1710.06081, Algorithm 1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    quick={"steps": 20, "relative_step_size": 0.25},
    cost=lambda p: (p["steps"], p["steps"]),
)
def mim(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 10,
    relative_step_size: float = 0.1,
    decay: float = 1.0,
    loss: LossName = "cross_entropy",
    sparse_fraction: float = 0.01,
) -> AttackResult:
    """Step along a decaying sum of normalised gradients, projecting on the threat set after each step.

    g_(t+1) = decay * g_t + gradient / ||gradient||_1, x_(t+1) = P(x_t + a * epsilon * s(g_(t+1))), x_0 = x, with the
    steepest direction s of the norm. Made for examples that transfer to other models; a sample stops at its first
    adversarial iterate.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: number of steps, >= 1.
        relative_step_size: step size as a fraction of epsilon, > 0; the paper takes 1 / steps.
        decay: what is kept of the sum at each step, in [0, 1]; 0 makes it BIM.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".
        sparse_fraction: share of the input values that an l1 step moves (at least one).

    Returns:
        The first adversarial iterate of each sample, or the last iterate.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Dong et al. 2018, arXiv:1710.06081, Algorithm 1 and Sec. 3.1 (l2).

    Departures: the gradient is divided by the mean of its absolute values, as in the authors' code, which gives the
        same directions as their sum in the paper; the l1 form is ours; the l2 and l1 projections are exact on ball
        and box together; the first success is returned instead of the last iterate.
    """
    check_positive(steps=steps, relative_step_size=relative_step_size, sparse_fraction=sparse_fraction)
    if not 0 <= decay <= 1:
        raise InvalidValue(f"decay={decay} was given", "[0, 1] is allowed", "The paper uses 1.")
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    x_adv = x.clone()
    forward, backward = (torch.zeros_like(y) for _ in range(2))
    rows = torch.arange(len(x), device=x.device)
    centre, current, velocity = x, x, torch.zeros_like(x)
    for _ in range(steps):
        if not len(rows):
            break
        _, gradients, logits = model.gradient(goal.scores, current)
        forward[rows] += 1
        backward[rows] += 1
        solved = goal.reached(logits)
        x_adv[rows[solved]] = current[solved]
        if solved.any():
            keep = (~solved).nonzero()[:, 0]
            rows, centre, current, velocity = rows[keep], centre[keep], current[keep], velocity[keep]
            threat, goal, gradients = threat.select(keep), goal.select(keep), gradients[keep]
        velocity = decay * velocity + unit_mean(gradients)
        current = _moved(threat, centre, current, velocity, relative_step_size, sparse_fraction)
    x_adv[rows] = current
    return AttackResult(x_adv, forward, backward)


def unit_mean(gradients: Tensor) -> Tensor:
    """Return each gradient (B, *S) divided by the mean of its absolute values; zero gradients stay zero."""
    flat = gradients.flatten(1)
    # Dividing by the largest value first keeps tiny gradients from underflowing in the mean.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    mean = flat.abs().mean(1, keepdim=True)
    return (flat / torch.where(mean > 0, mean, torch.ones_like(mean))).view_as(gradients)


def _moved(
    threat: ThreatModel, x: Tensor, current: Tensor, velocity: Tensor, relative_step_size: float, fraction: float
) -> Tensor:
    """Return the next iterates: one steepest step along ``velocity``, then the exact projection."""
    lower, upper = threat.bounds
    movable = torch.where(velocity > 0, current < upper, current > lower)
    count = max(1, round(fraction * x[0].numel())) if len(x) else 1
    size = (threat.radius(x) * relative_step_size).reshape(-1, *([1] * (x.dim() - 1)))
    return balls.project(threat, x, current + balls.steepest(threat.norm, velocity, movable, count) * size)
