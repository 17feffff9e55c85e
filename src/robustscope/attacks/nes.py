"""NES: projected steps along a gradient estimated by antithetic Gaussian differences, from scores alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.attacks.finite_differences import Estimate, climb
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import columns
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{ilyas2018blackbox,
  title = {Black-box Adversarial Attacks with Limited Queries and Information},
  author = {Ilyas, Andrew and Engstrom, Logan and Athalye, Anish and Lin, Jessy},
  booktitle = {International Conference on Machine Learning},
  year = {2018}
}"""


@dataclass
class _Steps:
    """Steepest steps along a fading sum of the estimates."""

    x: Tensor
    threat: ThreatModel
    fading: Tensor
    momentum: float
    relative_step_size: float

    def step(self, current: Tensor, gradient: Tensor) -> Tensor:
        # Estimates are of one length before they are summed, so that the scale of the model's scores does not matter.
        self.fading = self.momentum * self.fading + (1 - self.momentum) * balls.steepest("l2", gradient)
        size = columns(self.threat.radius(current) * self.relative_step_size, current)
        moved = current + size * balls.steepest(self.threat.norm, self.fading)
        return balls.project(self.threat, self.x, moved)

    def select(self, keep: Tensor) -> _Steps:
        return replace(self, x=self.x[keep], threat=self.threat.select(keep), fading=self.fading[keep])


@register(
    "nes",
    version=1,
    source="Ilyas et al., 2018, arXiv:1804.08598, Algorithm 1 and Sec. 2.2",
    bibtex=BIBTEX,
    access="scores",
    norms=("linf", "l2"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"queries": 1200},
    cost=lambda p: (p["queries"], 0),
)
def nes(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    queries: int = 5000,
    samples: int = 50,
    spread: float = 0.001,
    relative_step_size: float = 0.1,
    momentum: float = 0.9,
    loss: LossName = "margin",
) -> AttackResult:
    """Estimate the gradient from pairs of Gaussian points, and take projected steepest steps along it.

    At an iterate z the loss is asked at z + s u and z - s u for Gaussian u; the slopes are averaged, summed with fading
    weights over the steps, and their sign (linf) or their direction (l2) is followed by a fraction of epsilon.

    Args:
        model: classifier under attack; only its scores are used.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        queries: most rows that a sample sends through the model, >= 1: one for each iterate, ``samples`` for each
            estimate.
        samples: rows of one estimate, even, >= 2.
        spread: s, > 0, in units of the width of the bounds.
        relative_step_size: step as a fraction of epsilon, > 0.
        momentum: weight of the earlier estimates, in [0, 1).
        loss: "margin", "cross_entropy" or "dlr".

    Returns:
        The first adversarial iterate of each sample, or the one of the highest loss.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Ilyas, Engstrom, Athalye, Lin 2018, arXiv:1804.08598, Algorithm 1 and Sec. 2.2; momentum as in their code.

    Departures: the loss is the margin by default, where the paper uses the logarithm of a probability; points are
        clipped to the bounds and the slopes corrected for it; estimates are brought to one length before they are
        summed; the step is a fraction of epsilon and is not shortened on plateaus.
    """
    check_positive(queries=queries, spread=spread, relative_step_size=relative_step_size)
    if samples < 2 or samples % 2 or not 0 <= momentum < 1:
        raise InvalidValue(
            f"samples={samples} and momentum={momentum} were given",
            "an even number of samples >= 2 and a momentum in [0, 1) are allowed",
            "The paper uses samples=50, its code momentum=0.9.",
        )
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    steps = _Steps(x, threat, torch.zeros_like(x), momentum, relative_step_size)
    width = threat.bounds.upper - threat.bounds.lower
    how = Estimate(samples, spread * width, lambda own, purpose, like: own.normal(purpose, like))
    return climb(model, x, threat, goal, steps, draws, how, queries)
