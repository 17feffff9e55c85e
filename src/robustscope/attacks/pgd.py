"""Projected gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.ascent import Goal, ascend, merge
from robustscope.attacks.cards import register
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{madry2018towards,
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""


@register(
    "pgd",
    version=1,
    source="Madry et al., 2018, arXiv:1706.06083, Sec. 2.1",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"steps": 20, "relative_step_size": 0.25},
    cost=lambda p: (p["restarts"] * (p["steps"] + 2), p["restarts"] * p["steps"]),
)
def pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 40,
    relative_step_size: float = 0.1,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "cross_entropy",
    sparse_fraction: float = 0.01,
    trace: bool = False,
) -> AttackResult:
    """Ascend the loss by steepest steps from a random point, projecting on the threat set after each.

    x_{t+1} = P(x_t + a * epsilon * s(gradient)), where s is the unit-length steepest direction of the norm (sign for
    linf, normalised gradient for l2, the largest values for l1) and P the exact projection on ball and box together.
    A sample stops at its first adversarial iterate; a restart attacks only the samples that are not yet solved.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: steps for each restart, >= 1.
        relative_step_size: step size as a fraction of epsilon, > 0.
        restarts: independent runs, >= 1; the random numbers of a run depend on its number, so that more restarts
            contain fewer.
        random_start: start at a uniform point of the ball instead of at ``x``; needed for restarts.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".
        sparse_fraction: share of the input values that an l1 step moves (at least one).
        trace: record the loss of every iterate, (B, restarts * (steps + 1)).

    Returns:
        The first adversarial iterate of each sample, or the last iterate of the restart with the highest loss.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Madry et al. 2018, arXiv:1706.06083, Sec. 2.1; the l1 step follows Tramer & Boneh 2019,
        arXiv:1904.13000, Sec. 4.2.

    Departures: the first success is returned instead of the last iterate; the l2 and l1 projections are exact on
        ball and box together, where most implementations clip afterwards; an l1 step chooses among the values that
        can still move inside the box.
    """
    check_positive(
        steps=steps, relative_step_size=relative_step_size, restarts=restarts, sparse_fraction=sparse_fraction
    )
    if restarts > 1 and not random_start:
        raise InvalidValue(
            f"restarts={restarts} with random_start=False were given",
            "restarts need random starts",
            "Set random_start=True, or restarts=1.",
        )
    classes = model.classes(x)
    goal = Goal(objective(loss, classes, targets is not None), y, targets)
    best: AttackResult | None = None
    best_value = x.new_full((len(x),), -float("inf"))
    rows, restart = torch.arange(len(x), device=x.device), 0

    def state() -> resume.State:
        found = {} if best is None else resume.named("best", resume.tensors(best))
        return {"restart": restart, "rows": rows, "value": best_value, **found}

    with resume.stage("restarts", state) as saved:
        if saved is not None:
            rows, best_value, found = saved["rows"], saved["value"], resume.under("best", saved)
            best = AttackResult(**found) if found else None
        for restart in range(0 if saved is None else int(saved["restart"]), restarts):
            centre, part = x[rows], threat.select(rows)
            start = balls.sample(part, centre, draws.select(rows), f"start/{restart}") if random_start else centre
            result = ascend(
                model,
                centre,
                part,
                goal.select(rows),
                start,
                steps=steps,
                relative_step_size=relative_step_size,
                sparse_fraction=sparse_fraction,
                trace=trace,
            )
            if restarts == 1:
                return result
            value, solved = _look(model, goal.select(rows), result)
            better = solved | (value > best_value[rows])
            best_value[rows] = torch.where(better, value, best_value[rows])
            best = merge(best, result, rows, better)
            rows = rows[~solved]
            if not len(rows):
                break
    assert best is not None
    return best


def _look(model: Classifier, goal: Goal, result: AttackResult) -> tuple[Tensor, Tensor]:
    """Return the loss of a restart's examples and which are adversarial, for one more row each."""
    logits = model.logits(result.x_adv)
    result.forward.add_(1)
    return goal.scores(logits, torch.arange(len(logits), device=logits.device)), goal.reached(logits)


def check_positive(**values: float) -> None:
    """Refuse hyper-parameters that are not finite and above zero.

    Raises:
        InvalidValue: naming the first one.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InvalidValue(f"{name}={value} was given", "a finite number > 0 is allowed", f"Correct {name}.")
