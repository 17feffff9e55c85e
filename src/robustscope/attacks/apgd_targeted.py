"""Auto-PGD towards several classes in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustscope.attacks.apgd import BIBTEX
from robustscope.attacks.apgd_runs import Tally, run
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import LOSSES, Objective, dlr
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier


@dataclass(frozen=True)
class Detour(Goal):
    """Ascends a loss towards ``targets``, but has reached its end with any class other than ``y``."""

    def select(self, keep: Tensor) -> Detour:
        """Return the goal of the samples that ``keep`` picks."""
        assert self.targets is not None
        return Detour(self.loss, self.y[keep], self.targets[keep])

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which samples are misclassified: bool (B,)."""
        return is_adversarial(logits, self.y)


def difference(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Return the logit of the target class minus that of the true class; shape (B,)."""
    assert targets is not None
    return (logits.gather(1, targets[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def towards(loss: str, classes: int) -> Objective:
    """Return the targeted objective: ``dlr`` where there are the four classes that it needs, else the difference."""
    return dlr if loss == "dlr" and classes >= LOSSES["dlr"].classes_targeted else difference


@register(
    "apgd_targeted",
    version=1,
    source="Croce & Hein, 2020, arXiv:2003.01690, Sec. 4.1 and Eq. 7; l1: Croce & Hein, 2021, arXiv:2103.01208",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted",),
    stochastic=True,
    quick={"steps": 20, "n_targets": 3},
    cost=lambda p: (
        1 + p["restarts"] * p["n_targets"] * p["gradient_samples"] * (p["steps"] + 3),
        p["restarts"] * p["n_targets"] * p["gradient_samples"] * p["steps"],
    ),
)
def apgd_targeted(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 100,
    n_targets: int = 9,
    restarts: int = 1,
    loss: Literal["dlr", "margin"] = "dlr",
    gradient_samples: int = 1,
) -> AttackResult:
    """Run Auto-PGD towards each of the classes that come closest at the clean input, until one run succeeds.

    The classes are those other than ``y`` with the ``n_targets`` highest logits at ``x``, tried from the highest down.
    A sample is done as soon as an iterate is misclassified, as whatever class. Samples that are misclassified at
    ``x`` are returned unchanged.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: None; the attack chooses its own.
        steps: steps for each run, >= 1.
        n_targets: classes to try, >= 1; at most one less than the model has.
        restarts: runs for each class, >= 1; the random numbers of a run depend on class and number, so that more
            restarts contain fewer.
        loss: "dlr", the targeted difference-of-logits ratio, or "margin", the plain difference Z_t - Z_y, which is
            also taken in place of dlr for models of fewer than 4 classes.
        gradient_samples: passes averaged at each iterate, >= 1; see :func:`robustscope.attacks.apgd.apgd`.

    Returns:
        The first adversarial iterate of each sample, or the point of the highest loss over all runs.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Croce & Hein 2020, arXiv:2003.01690, Sec. 4.1 and Eq. 7; Croce & Hein 2021, arXiv:2103.01208.

    Departures: as :func:`robustscope.attacks.apgd.apgd`; the number of classes tried adapts to the model, where the
        official code fails below ten; every class is tried once before any is tried again, and the clean logits are
        asked for once, not before every run. In l1 AutoAttack tries 5 classes: pass n_targets=5 for that.
    """
    check_positive(steps=steps, n_targets=n_targets, restarts=restarts, gradient_samples=gradient_samples)
    tally, turn, others = Tally(x), 0, y[:, None]
    with resume.stage("turns", lambda: {"turn": turn, "others": others, **tally.state()}) as saved:
        if saved is None:
            clean = model.logits(x)
            tally.forward += 1
            tally.leave(is_adversarial(clean, y).nonzero()[:, 0])
            others = clean.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        else:
            tally.restore(saved)
            others = saved["others"]
        score, classes = towards(loss, others.shape[1]), min(n_targets, others.shape[1] - 1)
        for turn in range(0 if saved is None else int(saved["turn"]), restarts * classes):
            restart, rank = divmod(turn, classes)
            rows = tally.rows
            if not len(rows):
                break
            found = run(
                model,
                x[rows],
                threat.select(rows),
                Detour(score, y[rows], others[rows, rank]),
                draws.select(rows),
                f"start/{rank}/{restart}",
                steps=steps,
                samples=gradient_samples,
            )
            tally.add(found, rows)
    return tally.result()
