"""R+FGSM, which the survey lists as rFGS: a random step, then one gradient step."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{tramer2018ensemble,
  title = {Ensemble Adversarial Training: Attacks and Defenses},
  author = {Tram{\\`e}r, Florian and Kurakin, Alexey and Papernot, Nicolas and Goodfellow, Ian and Boneh, Dan
            and McDaniel, Patrick},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""


@register(
    "rfgsm",
    version=1,
    source="Tramer et al., 2018, arXiv:1705.07204, Sec. 4.1",
    bibtex=BIBTEX,
    norms=("linf",),
    goals=("untargeted", "targeted"),
    stochastic=True,
    cost=lambda p: (1, 1),
    known_failures={
        "solves_the_linear_problem": "half of the budget is spent on a random sign: the expected margin drop on a "
        "linear model is epsilon * ||w||_1 / 2, half of the optimum",
    },
)
def rfgsm(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    relative_random_size: float = 0.5,
    loss: LossName = "cross_entropy",
) -> AttackResult:
    """Take a random sign step of part of the radius, then spend the rest on one gradient sign step.

    x' = x + a * sign(N(0, I)); x_adv = x' + (epsilon - a) * sign(gradient at x'), with a = relative_random_size * epsilon.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: linf radius and bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        relative_random_size: share of the radius that the random step takes, in [0, 1].
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".

    Returns:
        One example for each sample, whether it succeeds or not: 1 forward and 1 backward row each.

    Raises:
        InvalidValue: for a share outside [0, 1], or a loss that needs more classes than the model has.

    Source: Tramer et al. 2018, arXiv:1705.07204, Sec. 4.1.

    Departures: none from the paper; the attack of this name in torchattacks is an iterated variant.
    """
    if not 0 <= relative_random_size <= 1:
        raise InvalidValue(
            f"relative_random_size={relative_random_size} was given", "[0, 1] is allowed", "The paper uses 0.5."
        )
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    signs = draws.normal("start", x).sign()
    radius = threat.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
    moved = balls.project(threat, x, x + relative_random_size * radius * signs)
    _, gradients, _ = model.gradient(goal.scores, moved)
    step = (1 - relative_random_size) * radius * gradients.sign()
    ones = torch.ones(len(x), dtype=torch.int64, device=x.device)
    return AttackResult(balls.project(threat, x, moved + step), ones, ones.clone())
