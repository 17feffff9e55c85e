"""ALMA: an augmented Lagrangian finds the nearest adversarial example, from wherever it first succeeds."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.confident import ConfidentSearch
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{rony2021augmented,
  title = {Augmented {L}agrangian Adversarial Attacks},
  author = {Rony, J{\\'e}r{\\^o}me and Granger, Eric and Pedersoli, Marco and Ben Ayed, Ismail},
  booktitle = {International Conference on Computer Vision},
  year = {2021}
}"""

WEIGHTS = (1e-6, 1e12)
"""Bounds of the multiplier."""

TINY = 1e-8
MARGIN = 1e-4
"""Logits by which an iterate must win for its constraint to hold: the boundary itself is a tie."""


@register(
    "alma",
    version=1,
    source="Rony, Granger, Pedersoli, Ben Ayed, 2021, arXiv:2011.11857, Algorithm 1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l2",),
    goals=("untargeted", "targeted"),
    quick={"steps": 100},
    cost=lambda p: (1 + p["steps"], p["steps"]),
)
def alma(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 1000,
    step_size: float = 0.1,
    final_step: float = 0.01,
    memory: float = 0.9,
    first_weight: float = 1.0,
    first_curvature: float = 1.0,
    curvature_growth: float = 1.2,
    check_every: int = 10,
    enough_progress: float = 0.95,
) -> AttackResult:
    """Descend |d| + P(g(x + d), rho, mu), where g is the difference-of-logits ratio, negative where adversarial.

    P is a penalty of slope mu at the boundary, steeper before it (by the curvature rho) and flatter behind. Each step
    RMSProp with momentum moves d, then mu follows the penalty's slope at g; rho grows where no example has been found
    and g has stopped falling. The step size stays as it is until the first success and falls geometrically from then on.
    The first iterates move every value at once and go far out, so that the boundary is often met from outside: that
    finds examples where the gradients near ``x`` lead nowhere.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2, radius, bounds; examples beyond the radius are projected back at the end.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: iterates of each sample, >= 1.
        step_size: RMSProp's step until the first success, > 0, as a share of the width of the bounds.
        final_step: last step size over the first one, in (0, 1].
        memory: share of the past in the fading means (squared gradients, momentum, mu), in [0, 1).
        first_weight: mu at the start, > 0.
        first_curvature: rho at the start, > 0.
        curvature_growth: factor by which rho grows, > 1.
        check_every: steps between two looks at the progress of g, >= 1.
        enough_progress: rho grows where g did not fall below this share of its last value, in (0, 1].

    Returns:
        The nearest example found for each sample if it lies within epsilon, else its projection, else x.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Rony, Granger, Pedersoli, Ben Ayed 2021, arXiv:2011.11857, Algorithm 1 and Sec. 4; penalty: its Eq. 12, from
        Birgin, Castillo & Martinez 2005.

    Departures: the third largest logit divides the ratio for targets too, where the original takes the mean of third and
        fourth; with two classes the logit difference over its size at ``x`` takes the ratio's place. The first step size is a share of the bounds, not set by a search for a first distance.
        Success needs a margin beyond rounding. The paper's l1 version is left out: its sign steps never rest, so that its
        examples hang on the last bit (0.02 in a value when a batch is cut otherwise) and stay 2 to 5 % above the nearest.
    """
    check_positive(steps=steps, step_size=step_size, first_weight=first_weight, first_curvature=first_curvature)
    check_positive(check_every=check_every)
    for name, share in (("final_step", final_step), ("enough_progress", enough_progress)):
        if not 0 < share <= 1:
            raise InvalidValue(f"{name}={share} was given", "a number in (0, 1] is allowed", f"Correct {name}.")
    if not 0 <= memory < 1:
        raise InvalidValue(f"memory={memory} was given", "a number in [0, 1) is allowed", "Write e.g. 0.9.")
    if not curvature_growth > 1:
        raise InvalidValue(
            f"curvature_growth={curvature_growth} was given", "a number > 1 is allowed", "Write e.g. 1.2."
        )
    search = ConfidentSearch(model, x, y, threat, targets)
    rows = search.start()
    centre, width = x[rows], threat.bounds.upper - threat.bounds.lower
    delta = torch.zeros_like(centre)
    square, speed = torch.ones_like(delta), torch.zeros_like(delta)
    mu, rho = centre.new_full((len(rows),), first_weight), centre.new_full((len(rows),), first_curvature)
    before, unit, since = mu, torch.ones_like(mu), torch.full_like(mu, steps)
    for step in range(steps if len(rows) else 0):
        values, gradients, found = search.gradient(rows, torch.add(centre, delta, alpha=width), _ratio)
        if step == 0:
            unit = values.abs() if model.classes(x) == 2 else unit
        g = -values / unit
        since = torch.where(found & (since == steps), step, since)
        if step == 0:
            before = g
        elif (step + 1) % check_every == 0:
            rho = torch.where((since == steps) & (g >= enough_progress * before), rho * curvature_growth, rho)
            before = g
        if step:
            mu = mu.lerp(_slope(g, rho, mu), 1 - memory).clamp(*WEIGHTS)
        gradients.mul_(columns(_slope(g, rho, mu) * -width / unit, gradients))
        if step:
            gradients.add_(_direction(delta))
        square.mul_(memory).addcmul_(gradients, gradients, value=1 - memory)
        speed.mul_(memory).addcdiv_(gradients, square.sqrt().add_(TINY))
        size = step_size * final_step ** ((step - since).clamp(min=0) / (steps - since).clamp(min=1))
        delta = delta.addcmul_(speed, columns(size, delta), value=-1)
        delta = torch.add(centre, delta, alpha=width).clamp_(*threat.bounds).sub_(centre).div_(width)
    return search.result()


def _ratio(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Return minus g (b,): the margin loss over the largest logit minus the third; with two classes, over nothing."""
    loss = margin_loss(logits, y, targets) - MARGIN
    if logits.shape[1] == 2:
        return loss
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return loss / (first - third + TINY)


def _slope(g: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """Return the derivative of the penalty at ``g`` (b,): mu at the boundary, rising before it, vanishing behind."""
    before = mu + 2 * mu * rho * g + rho.square() * g.square() / 2
    return torch.where(g >= 0, before, mu / (1 - rho * g.clamp(max=0)).square())


def _direction(delta: Tensor) -> Tensor:
    """Return the gradient of the length of ``delta`` (b, *S); zero where it is zero."""
    return delta / columns(balls.length("l2", delta).clamp(min=torch.finfo(delta.dtype).tiny), delta)
