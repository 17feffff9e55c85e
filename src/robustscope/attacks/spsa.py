"""SPSA: Adam on gradients estimated by simultaneous random perturbations, from scores alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from robustscope.attacks.adam import Adam
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.attacks.finite_differences import Estimate, climb
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{uesato2018adversarial,
  title = {Adversarial Risk and the Dangers of Evaluating Against Weak Attacks},
  author = {Uesato, Jonathan and O'Donoghue, Brendan and van den Oord, Aaron and Kohli, Pushmeet},
  booktitle = {International Conference on Machine Learning},
  year = {2018}
}"""


@dataclass
class _AdamSteps:
    """Adam's steps, projected on the threat set."""

    x: Tensor
    threat: ThreatModel
    adam: Adam
    size: Tensor

    def step(self, current: Tensor, gradient: Tensor) -> Tensor:
        # Of one length, for Adam's constant against division by zero takes small gradients for none at all.
        scaled = balls.steepest("l2", gradient).mul_(gradient[0].numel() ** 0.5)
        return balls.project(self.threat, self.x, current + self.adam.step(scaled, self.size))

    def select(self, keep: Tensor) -> _AdamSteps:
        return replace(
            self, x=self.x[keep], threat=self.threat.select(keep), adam=self.adam.select(keep), size=self.size[keep]
        )


def _signs(draws: Draws, purpose: str, like: Tensor) -> Tensor:
    """Return +1 and -1 with equal chance, shaped as ``like``."""
    return draws.uniform(purpose, like).ge(0).to(like.dtype).mul_(2).sub_(1)


@register(
    "spsa",
    version=1,
    source="Uesato et al., 2018, arXiv:1802.05666, Sec. 4 and Algorithm 1",
    bibtex=BIBTEX,
    access="scores",
    norms=("linf", "l2"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"queries": 1200, "samples": 48},
    cost=lambda p: (p["queries"], 0),
)
def spsa(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    queries: int = 5000,
    samples: int = 128,
    spread: float = 0.01,
    relative_step_size: float = 0.1,
    loss: LossName = "margin",
) -> AttackResult:
    """Estimate the gradient from random sign perturbations of all values at once, and follow it with Adam.

    At an iterate z the loss is asked at z + s v and z - s v for random signs v; the slope along each value is averaged
    over the pairs. Adam's step is projected on the threat set.

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
        relative_step_size: Adam's step as a fraction of epsilon, > 0: of each value in linf, of all together in l2.
        loss: "margin", "cross_entropy" or "dlr".

    Returns:
        The first adversarial iterate of each sample, or the one of the highest loss.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Uesato, O'Donoghue, van den Oord, Kohli 2018, arXiv:1802.05666, Sec. 4 and Algorithm 1.

    Departures: points are clipped to the bounds and the slopes corrected for it; estimates are brought to one length
        before Adam sees them, so that the scale of the scores does not matter; the step is a fraction of epsilon,
        where the paper takes 0.01.
    """
    check_positive(queries=queries, spread=spread, relative_step_size=relative_step_size)
    if samples < 2 or samples % 2:
        raise InvalidValue(f"samples={samples} was given", "an even number >= 2 is allowed", "Write e.g. samples=128.")
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    size = threat.radius(x) * relative_step_size
    if threat.norm == "l2" and len(x):
        size = size / max(x[0].numel(), 1) ** 0.5
    steps = _AdamSteps(x, threat, Adam.begin(x), size)
    width = threat.bounds.upper - threat.bounds.lower
    return climb(model, x, threat, goal, steps, draws, Estimate(samples, spread * width, _signs), queries)
