"""The basic iterative method, also called I-FGSM."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.ascent import Goal, ascend
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{kurakin2017adversarial,
  title = {Adversarial Examples in the Physical World},
  author = {Kurakin, Alexey and Goodfellow, Ian J. and Bengio, Samy},
  booktitle = {International Conference on Learning Representations, Workshop Track},
  year = {2017}
}"""


@register(
    "bim",
    version=1,
    source="Kurakin, Goodfellow, Bengio, 2017, arXiv:1607.02533, Sec. 2.2",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    quick={"steps": 20, "relative_step_size": 0.25},
    cost=lambda p: (p["steps"] + 1, p["steps"]),
)
def bim(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 10,
    relative_step_size: float = 0.125,
    loss: LossName = "cross_entropy",
) -> AttackResult:
    """Repeat small FGSM steps from ``x`` itself, projecting on the threat set after each.

    As :func:`robustscope.attacks.pgd.pgd` without the random start.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: number of steps, >= 1; 10 is the paper's min(epsilon + 4, 1.25 epsilon) at epsilon = 8/255.
        relative_step_size: step size as a fraction of epsilon, > 0; the paper steps by 1/255.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".

    Returns:
        The first adversarial iterate of each sample, or the last iterate.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Kurakin, Goodfellow, Bengio 2017, arXiv:1607.02533, Sec. 2.2.

    Departures: step size and number are relative to epsilon instead of fixed to 8-bit grey levels; the first success
        is returned instead of the last iterate.
    """
    check_positive(steps=steps, relative_step_size=relative_step_size)
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    return ascend(model, x, threat, goal, x, steps=steps, relative_step_size=relative_step_size)
