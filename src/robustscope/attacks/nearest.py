"""Nearest: several minimum-norm attacks share one budget, and the nearest example of all counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustscope.attacks.cards import ATTACKS, register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, Norm, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{pintor2021fast,
  title = {Fast Minimum-Norm Adversarial Attacks through Adaptive Norm Constraints},
  author = {Pintor, Maura and Roli, Fabio and Brendel, Wieland and Biggio, Battista},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}"""

PLAN: dict[Norm, tuple[tuple[str, float, int], ...]] = {
    "linf": (("fmn", 0.4, 0), ("fab_targeted", 0.6, 9)),
    "l2": (("fmn", 0.4, 0), ("fab_targeted", 0.6, 9)),
    "l1": (("pdpgd", 0.3, 0), ("fmn", 0.3, 3), ("fab_targeted", 0.4, 4)),
    "l0": (("sigma_zero", 0.35, 0), ("sigma_zero", 0.25, 0), ("fmn", 0.15, 0), ("fmn", 0.25, 5)),
}
"""(attack, share of the steps, most classes that it is sent towards; 0 for an untargeted run).

Sigma-zero's path hangs on its schedule, so that a second run of another length ends elsewhere.
"""

FAB_ROWS = 1.5
"""Rows of a step of FAB towards one class, two forward and one backward, over those of a step of FMN."""


@register(
    "nearest",
    version=1,
    source="this project; its parts: arXiv:2102.12827, arXiv:2003.01690, arXiv:2106.01538, arXiv:2402.01879",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("linf", "l2", "l1", "l0"),
    quick={"steps": 150},
    cost=lambda p: (1.25 * p["steps"] + 40, p["steps"] + 10),
)
def nearest(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 1000,
    num_targets: int = 9,
) -> AttackResult:
    """Run minimum-norm attacks one after the other: first away from the true class, then towards each other class.

    An untargeted attack follows the gradient of one margin and stays where that leads: on networks whose gradients
    vanish or turn, another class is often much nearer, or the only one that is found at all. linf, l2: FMN has 40 % of
    the steps, FAB towards each of 9 classes the rest. l1: PDPGD has 30 %, FMN towards 3 classes 30 %, FAB towards 4 the
    rest. l0: sigma-zero has 35 % and again 25 %, FMN 15 %, FMN towards 5 classes the rest. The classes are those of the
    largest logits at ``x``, with equal shares.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: passed on; the attacks used here draw nothing.
        targets: unused; the attack chooses its own, and is untargeted as a whole.
        steps: steps in all, each one row forward and one backward, >= 1; every part makes one step at least.
        num_targets: most other classes that any part is sent towards, >= 1; all of them where there are fewer.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: this project, after Pintor et al. 2021, arXiv:2102.12827 (FMN); Croce & Hein 2020, arXiv:2003.01690, Sec. 5
        (FAB-T); Matyasko & Chau 2021, arXiv:2106.01538 (PDPGD); Cinà et al. 2025, arXiv:2402.01879 (sigma-zero). What
        the shares were chosen by stands in benchmarks/strength.md.
    """
    check_positive(steps=steps)
    if num_targets < 1:
        raise InvalidValue(f"num_targets={num_targets} was given", "1 or more is allowed", "The default is 9.")
    search = Search(model, x, y, threat)
    if not len(x):
        return search.result()
    logits, _ = search.logits(torch.arange(len(x), device=x.device), x)
    rows = search.rows()
    others = search.rivals(logits, torch.arange(len(x), device=x.device), num_targets)
    pool = _Pool(search, rows, draws)
    for name, share, classes in PLAN[threat.norm]:
        classes = min(classes, others.shape[1])
        if name == "fab_targeted":
            pool.run(name, steps=max(1, int(share * steps / (FAB_ROWS * classes))), num_targets=classes)
            continue
        for goals in others[:, :classes].unbind(1) if classes else (None,):
            pool.run(name, goals, steps=max(1, int(share * steps / max(classes, 1))))
    return search.result()


class _Pool:
    """Runs registered attacks on the samples of one search, and gives the search their nearest examples and counts."""

    def __init__(self, search: Search, rows: Tensor, draws: Draws) -> None:
        self.search, self.rows, self.draws = search, rows, draws
        self.threat = replace(search.threat, epsilon=math.inf)

    def run(self, name: str, goals: Tensor | None = None, **parameters: Any) -> None:
        """Run an attack on every sample, towards ``goals`` (B,) if given, and keep what is nearer than before."""
        search, rows = self.search, self.rows
        if not len(rows):
            return
        card, x = ATTACKS[name], search.x[rows]
        settings = card.resolve(parameters)
        draws, towards = self.draws.select(rows).within(name), None if goals is None else goals[rows]
        found = card.function(search.model, x, search.y[rows], self.threat, draws=draws, targets=towards, **settings)
        search.forward[rows] += found.forward
        search.backward[rows] += found.backward
        # These attacks return an adversarial example, which is judged already, or the input itself.
        away = balls.distance(self.threat.norm, x, found.x_adv)
        nearer = (away > 0) & (away < search.distance[rows])
        hit = rows[nearer]
        search.x_adv[hit], search.distance[hit] = found.x_adv[nearer], away[nearer]
