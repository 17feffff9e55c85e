"""The fast gradient sign method, also called FGS, and its l2 and l1 forms."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{goodfellow2015explaining,
  title = {Explaining and Harnessing Adversarial Examples},
  author = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year = {2015}
}"""


@register(
    "fgsm",
    version=1,
    source="Goodfellow, Shlens, Szegedy, 2015, arXiv:1412.6572, Sec. 4",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    cost=lambda p: (1, 1),
)
def fgsm(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    loss: LossName = "cross_entropy",
) -> AttackResult:
    """Move once to the point of the threat set that ascends the linearised loss furthest.

    linf: x + epsilon * sign(gradient), clipped to the bounds. l2 and l1: the exact maximiser of the linearised loss
    over ball and box together, so on a linear model of two classes one step is optimal in every norm.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".

    Returns:
        One step for each sample, whether it succeeds or not: 1 forward and 1 backward row each.

    Raises:
        InvalidValue: for a loss that needs more classes than the model has.

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572, Sec. 4.

    Departures: the usual l2 form, x + epsilon * gradient / norm, then clipped, wastes what clipping cuts off.
    """
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    _, gradients, _ = model.gradient(goal.scores, x)
    ones = y.new_ones(len(x))
    return AttackResult(balls.furthest(threat, x, gradients), ones, ones.clone())
